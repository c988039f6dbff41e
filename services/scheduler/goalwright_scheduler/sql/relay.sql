-- A whole turn in one statement, for the plain case: answers are taken, what they free goes out, and the events of both
-- are stored. Guarded like `term`, `complete`, `dispatch` and `emit`; no row at all: the term is over. Where an answer
-- is late, or more is to do (a parent is whole, a person is asked, twins are looked for, what becomes ready ranks above
-- what would go), it is refused and nothing has changed. It holds on to the lead and does not renew it: a tick does. All
-- that changes in tasks is one UPDATE: where the turn is short, what it costs is to begin, not to write.
-- $1 term, $2 holder;
-- answers: $3 ids, $4 epochs, $5 seconds, $6 summaries, $7 programs, $8 checks, $9 workers;
-- what they made: $10 tasks, $11 goals, $12 scopes, $13 generations, $14 names, $15 refs;
-- ready tasks that go now: $16 ids, $17 leases; lanes on which what becomes ready goes at once: $18 names, $19 how many
-- may go, $20 leases; goals of all these: $21 goals, $22 numbers of their next events, $23 how many answers, $24 the
-- events of those, as JSON separated by commas
WITH lead AS (
    SELECT goalwright_clock() AS now FROM leader WHERE term = $1 AND holder = $2 FOR SHARE
), ended AS (
    SELECT t.id, t.parent, t.children
    FROM lead, unnest($3::bigint[], $4::int[]) AS a(id, epoch)
    JOIN task t ON t.id = a.id AND t.epoch = a.epoch AND t.state IN ('dispatched', 'retry_wait')
), named AS (
    INSERT INTO artifact (task, goal, scope, generation, name, ref)
    SELECT m.task, m.goal, m.scope, m.generation, m.name, m.ref::json
    FROM lead, unnest($10::bigint[], $11::bigint[], $12::bigint[], $13::int[], $14::text[], $15::text[])
         AS m(task, goal, scope, generation, name, ref)
    ON CONFLICT (goal, scope, generation, name) DO UPDATE SET task = excluded.task, ref = excluded.ref
), recorded AS (
    INSERT INTO task_result (task, epoch, kind, at, seconds, summary, program, checks, worker)
    SELECT r.task, r.epoch, 'done', lead.now, r.seconds, r.summary, r.program::jsonb, r.checks::jsonb, r.worker
    FROM lead, unnest($3::bigint[], $4::int[], $5::float8[], $6::text[], $7::text[], $8::text[], $9::text[])
         AS r(task, epoch, seconds, summary, program, checks, worker)
    ON CONFLICT (task, epoch) DO UPDATE
    SET kind = excluded.kind, summary = excluded.summary, checks = excluded.checks,
        program = coalesce(excluded.program, task_result.program)
), met AS (
    SELECT child, count(*)::int AS n FROM ended, unnest(ended.children) AS child GROUP BY child
), active AS (  -- IS TRUE keeps the look-up in it a hash
    SELECT num FROM goal WHERE num = ANY($21::bigint[]) AND status IN ('accepted', 'planning', 'running')
), next AS (  -- of those whose last need was met the best go at once, as far as there is room on their lanes
    SELECT child, n, CASE WHEN may AND row_number() OVER (PARTITION BY lane, may ORDER BY head_start DESC, child) <= room
                          THEN lease END AS lease
    FROM (
        SELECT met.child, met.n, t.lane, t.head_start, l.lease, l.room,
               l.lease IS NOT NULL AND t.state = 'blocked' AND t.unmet = met.n AND t.epoch = 0 AND NOT t.screened
               AND (t.goal IN (SELECT num FROM active)) IS TRUE AS may
        FROM met
        JOIN task t ON t.id = met.child
        LEFT JOIN unnest($18::text[], $19::int[], $20::float8[]) AS l(lane, room, lease) ON l.lane = t.lane
    ) AS free
), moved AS (  -- a task takes one of these steps: it has answered, a child of it has, a need of it is met, or it goes
    UPDATE task t
    SET state = CASE WHEN step.lease IS NOT NULL THEN 'dispatched'
                     WHEN step.what = 'answered' THEN 'succeeded'
                     WHEN step.what = 'met' AND t.state = 'blocked' AND t.unmet = step.n
                     THEN CASE t.lane WHEN 'human' THEN 'parked' ELSE 'ready' END
                     ELSE t.state END,
        unmet = CASE step.what WHEN 'met' THEN t.unmet - step.n ELSE t.unmet END,
        open_children = CASE step.what WHEN 'whole' THEN t.open_children - step.n ELSE t.open_children END,
        ready_at = CASE WHEN step.what = 'met' AND t.state = 'blocked' AND t.unmet = step.n THEN lead.now
                        ELSE t.ready_at END,
        rank = CASE WHEN step.what = 'met' AND t.state = 'blocked' AND t.unmet = step.n
                    THEN t.head_start - extract(epoch FROM lead.now) ELSE t.rank END,
        hold = CASE WHEN step.lease IS NULL AND step.what <> 'answered' THEN t.hold ELSE 0 END,
        epoch = CASE WHEN step.lease IS NULL THEN t.epoch ELSE t.epoch + 1 END,
        announced = step.lease IS NULL AND t.announced,
        dispatched_at = CASE WHEN step.lease IS NULL THEN t.dispatched_at ELSE lead.now END,
        due_at = CASE WHEN step.lease IS NOT NULL THEN lead.now + step.lease * interval '1 second'
                      WHEN step.what <> 'answered' THEN t.due_at END
    FROM lead, (
        SELECT 'answered' AS what, id, 0 AS n, NULL::float8 AS lease FROM ended
        UNION ALL
        SELECT 'whole', parent, count(*)::int, NULL FROM ended WHERE parent IS NOT NULL GROUP BY parent
        UNION ALL
        SELECT 'met', child, n, lease FROM next
        UNION ALL
        SELECT 'goes', c.id, 0, c.lease FROM unnest($16::bigint[], $17::float8[]) AS c(id, lease)
    ) AS step
    WHERE t.id = step.id
      AND (step.what <> 'goes' OR t.state = 'ready' AND (t.goal IN (SELECT num FROM active)) IS TRUE)
    RETURNING t.id, t.goal, t.parent, t.generation, t.depth, t.lane, t.epoch, t.turn, t.failures, t.expansions,
              t.due_at, t.dispatched_at, t.rank, t.unmet, t.open_children, t.state, t.screened, step.what, step.lease
), line AS (
    SELECT l.goal, l.first, l.answers, l.told,
           to_char(lead.now AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at
    FROM lead, unnest($21::bigint[], $22::bigint[], $23::int[], $24::text[]) AS l(goal, first, answers, told)
), gone AS (
    SELECT t.id, t.goal, t.lane, t.parent, t.generation, t.depth, t.epoch, t.turn, t.failures, t.due_at, t.dispatched_at,
           s.key, s.spec::text AS spec, s.inputs AS names, x.kind AS expansion_kind,
           (x.continuation->'continuation')::text AS continuation,
           g.goal_id, g.owner, g.root_task, g.deadline, g.budget - g.fenced - g.spent - g.held AS budget_left,
           line.first + line.answers - 1 + row_number() OVER best AS seq,
           '{"event_id":"' || g.goal_id || ':' || line.first + line.answers - 1 + row_number() OVER best
           || '","seq":' || line.first + line.answers - 1 + row_number() OVER best
           || ',"goal_id":"' || g.goal_id || '","owner":"' || g.owner || '","kind":"task.dispatched","task_id":"' || t.id
           || '","at":"' || line.at || '","data":{"key":"' || s.key || '","lane":"' || t.lane || '","epoch":' || t.epoch
           || ',"turn":' || t.turn || ',"action":"' || s.action || '","parent":'
           || coalesce('"' || t.parent || '"', 'null') || '}}' AS told
    FROM moved t
    JOIN line ON line.goal = t.goal
    JOIN goal g ON g.num = t.goal
    JOIN task_spec s ON s.id = t.id
    LEFT JOIN expansion x ON x.parent = t.id AND x.generation = t.expansions
    WHERE t.lease IS NOT NULL
    WINDOW best AS (PARTITION BY t.goal ORDER BY t.rank DESC, t.id)
), step AS (
    SELECT line.goal, line.first, line.answers + coalesce(further.n, 0) AS events,
           concat_ws(',', line.told, further.told) AS told
    FROM line LEFT JOIN (
        SELECT goal, count(*)::int AS n, string_agg(told, ',' ORDER BY seq) AS told FROM gone GROUP BY goal
    ) AS further ON further.goal = line.goal
), advanced AS (
    UPDATE goal g SET next_seq = step.first + step.events
    FROM step WHERE g.num = step.goal AND g.next_seq = step.first
    RETURNING g.num
), stored AS (
    INSERT INTO outbox (goal, first_seq, at, events)
    SELECT step.goal, step.first, lead.now, '[' || step.told || ']'
    FROM lead, step WHERE step.events > 0 ORDER BY step.goal
    RETURNING id, goal
), more AS (
    SELECT CASE
        WHEN (SELECT count(*) FROM ended) < cardinality($3::bigint[]) THEN 'late'
        WHEN (SELECT count(*) FROM advanced) < cardinality($21::bigint[]) THEN 'numbered by somebody else'
        WHEN EXISTS (SELECT FROM moved WHERE what = 'whole' AND open_children = 0) THEN 'whole'
        WHEN EXISTS (SELECT FROM moved WHERE what = 'met' AND unmet = 0 AND state = 'parked') THEN 'asked'
        WHEN EXISTS (SELECT FROM moved WHERE what = 'met' AND unmet = 0 AND state = 'ready' AND screened AND epoch = 0) THEN 'screened'
        WHEN cardinality($16::bigint[]) > 0 AND EXISTS (
            SELECT FROM (SELECT goal, lane, min(rank) AS rank FROM moved WHERE what = 'goes' GROUP BY goal, lane) AS last
            JOIN moved AS better ON better.goal = last.goal AND better.lane = last.lane AND better.rank > last.rank
            WHERE better.what = 'met' AND better.unmet = 0 AND better.state = 'ready'
        ) THEN 'outranked'
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
SELECT 'lead', NULL, NULL, CASE WHEN more.what IS NOT NULL THEN goalwright_refuse(more.what) END, NULL, NULL, NULL, NULL, NULL,
       NULL, NULL, NULL, lead.now, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM lead, more
UNION ALL
SELECT 'ready', id, goal, lane, rank, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
       NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM moved WHERE what = 'met' AND unmet = 0 AND state = 'ready'
UNION ALL
SELECT 'outbox', id, goal, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
       NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM stored
