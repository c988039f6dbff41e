-- The same as `relay` for the plainest case, a link of a chain: one answer that frees nobody, or one task, which goes
-- at once. Of a relay of one answer a fifth goes into steps that it does not need. Whatever is more is refused, and
-- nothing has changed.
-- $1 term, $2 holder; the answer: $3 id, $4 epoch, $5 seconds, $6 summary, $7 program, $8 checks, $9 worker;
-- what it made: $10 names, $11 refs; lanes with room: $12 names, $13 how many may go, $14 leases;
-- its goal: $15 number of its next event, $16 how many events, $17 these, as JSON separated by commas
WITH lead AS (
    SELECT goalwright_clock() AS now FROM leader WHERE term = $1 AND holder = $2 FOR SHARE
), ended AS (
    SELECT t.id, t.goal, t.parent, t.generation, t.children
    FROM lead, task t WHERE t.id = $3::bigint AND t.epoch = $4::int AND t.state IN ('dispatched', 'retry_wait')
), named AS (
    INSERT INTO artifact (task, goal, scope, generation, name, ref)
    SELECT ended.id, ended.goal, coalesce(ended.parent, 0), ended.generation, m.name, m.ref::json
    FROM ended, unnest($10::text[], $11::text[]) AS m(name, ref)
    ON CONFLICT (goal, scope, generation, name) DO UPDATE SET task = excluded.task, ref = excluded.ref
), recorded AS (
    INSERT INTO task_result (task, epoch, kind, at, seconds, summary, program, checks, worker)
    SELECT $3, $4, 'done', lead.now, $5::float8, $6::text, $7::jsonb, $8::jsonb, $9::text FROM lead
    ON CONFLICT (task, epoch) DO UPDATE
    SET kind = excluded.kind, summary = excluded.summary, checks = excluded.checks,
        program = coalesce(excluded.program, task_result.program)
), step AS (
    SELECT id, 'answered' AS what, NULL::float8 AS lease FROM ended
    UNION ALL
    SELECT parent, 'whole', NULL FROM ended WHERE parent IS NOT NULL
    UNION ALL
    SELECT c.id, CASE WHEN c.state = 'blocked' AND c.unmet = 1 THEN 'goes' ELSE 'met' END,
           CASE WHEN c.state = 'blocked' AND c.unmet = 1 AND c.epoch = 0 AND NOT c.screened
                     AND ($13::int[])[array_position($12::text[], c.lane)] >= cardinality(ended.children)
                THEN ($14::float8[])[array_position($12::text[], c.lane)] END
    FROM ended, unnest(ended.children) AS child JOIN task c ON c.id = child
), moved AS (
    UPDATE task t
    SET state = CASE step.what WHEN 'answered' THEN 'succeeded' WHEN 'goes' THEN 'dispatched' ELSE t.state END,
        unmet = t.unmet - (step.what IN ('met', 'goes'))::int,
        open_children = t.open_children - (step.what = 'whole')::int,
        ready_at = CASE step.what WHEN 'goes' THEN lead.now ELSE t.ready_at END,
        rank = CASE step.what WHEN 'goes' THEN t.head_start - extract(epoch FROM lead.now) ELSE t.rank END,
        hold = CASE step.what WHEN 'answered' THEN 0 WHEN 'goes' THEN 0 ELSE t.hold END,
        epoch = t.epoch + (step.what = 'goes')::int,
        announced = step.what <> 'goes' AND t.announced,
        dispatched_at = CASE step.what WHEN 'goes' THEN lead.now ELSE t.dispatched_at END,
        due_at = CASE step.what WHEN 'goes' THEN lead.now + step.lease * interval '1 second'
                                WHEN 'answered' THEN NULL ELSE t.due_at END
    FROM lead, step
    WHERE t.id = step.id
    RETURNING t.id, t.goal, t.parent, t.generation, t.depth, t.lane, t.epoch, t.turn, t.failures, t.expansions,
              t.due_at, t.dispatched_at, t.open_children, step.what, step.lease
), gone AS (
    SELECT t.id, t.goal, t.lane, t.parent, t.generation, t.depth, t.epoch, t.turn, t.failures, t.due_at,
           t.dispatched_at, s.key, s.spec::text AS spec, s.inputs AS names, x.kind AS expansion_kind,
           (x.continuation->'continuation')::text AS continuation,
           g.goal_id, g.owner, g.root_task, g.deadline, g.budget - g.fenced - g.spent - g.held AS budget_left,
           $15::bigint + $16::int AS seq,
           '{"event_id":"' || g.goal_id || ':' || $15 + $16 || '","seq":' || $15 + $16
           || ',"goal_id":"' || g.goal_id || '","owner":"' || g.owner || '","kind":"task.dispatched","task_id":"'
           || t.id || '","at":"' || to_char(lead.now AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
           || '","data":{"key":"' || s.key || '","lane":"' || t.lane || '","epoch":' || t.epoch
           || ',"turn":' || t.turn || ',"action":"' || s.action || '","parent":'
           || coalesce('"' || t.parent || '"', 'null') || '}}' AS told
    FROM lead, moved t
    JOIN goal g ON g.num = t.goal
    JOIN task_spec s ON s.id = t.id
    LEFT JOIN expansion x ON x.parent = t.id AND x.generation = t.expansions
    WHERE t.what = 'goes'
), advanced AS (
    UPDATE goal g SET next_seq = $15 + $16 + (SELECT count(*) FROM gone)
    FROM ended
    WHERE g.num = ended.goal AND g.next_seq = $15 AND g.status IN ('accepted', 'planning', 'running')
    RETURNING g.num
), stored AS (
    INSERT INTO outbox (goal, first_seq, at, events)
    SELECT ended.goal, $15, lead.now, '[' || $17::text || coalesce(',' || (SELECT max(told) FROM gone), '') || ']'
    FROM lead, ended
    RETURNING id, goal
), more AS (
    SELECT CASE
        WHEN NOT EXISTS (SELECT FROM advanced) THEN 'late'
        WHEN EXISTS (SELECT FROM moved WHERE what = 'whole' AND open_children = 0 OR what = 'goes' AND lease IS NULL)
             OR (SELECT count(*) FROM gone) > 1 THEN 'more'
    END AS what
)
SELECT 'sent' AS what, id, goal, lane, NULL::float8 AS rank, parent, generation, depth, epoch, turn, failures, due_at,
       dispatched_at, key, spec, names, expansion_kind, continuation, goal_id, owner, root_task, deadline, budget_left,
       (SELECT string_agg(to_json(named.name)::text || ':' || found.ref::text, ',')
        FROM unnest(gone.names) AS named(name)
        CROSS JOIN LATERAL (
            SELECT a.ref FROM artifact a
            WHERE a.goal = gone.goal AND a.scope = coalesce(gone.parent, 0) AND a.generation IN (0, gone.generation)
              AND a.name = named.name
            ORDER BY a.generation DESC LIMIT 1
        ) AS found) AS inputs, seq, told
FROM gone
UNION ALL
SELECT 'lead', NULL, NULL, CASE WHEN more.what IS NOT NULL THEN goalwright_refuse(more.what) END, NULL, NULL, NULL,
       NULL, NULL, NULL, NULL, NULL, lead.now, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
       NULL
FROM lead, more
UNION ALL
SELECT 'outbox', id, goal, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
       NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM stored
