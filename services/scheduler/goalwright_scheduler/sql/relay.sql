-- A whole turn in one statement, for the plain case: answers are taken, what they free goes out, and the events of both
-- are stored. Guarded like `term`, `complete`, `dispatch` and `emit`; no row at all: the term is over. Where an answer
-- is late, or more is to do (a parent is whole, a person is asked, twins are looked for), it is refused and nothing
-- has changed.
-- $1 term, $2 holder, $3 leader's lease in seconds, $4 outbox rows that are published for good;
-- answers: $5 ids, $6 epochs, $7 seconds, $8 summaries, $9 programs, $10 checks, $11 workers;
-- what they made: $12 tasks, $13 goals, $14 scopes, $15 generations, $16 names, $17 refs;
-- ready tasks that go now: $18 ids, $19 leases; lanes on which what becomes ready goes at once: $20 names, $21 how many
-- may go, $22 leases; goals of all these: $23 goals, $24 numbers of their next events, $25 how many answers, $26 the
-- events of those, as JSON separated by commas
WITH lead AS (
    UPDATE leader SET until = goalwright_clock() + $3::float8 * interval '1 second'
    WHERE term = $1 AND holder = $2
    RETURNING goalwright_clock() AS now
), published AS (
    DELETE FROM outbox WHERE id = ANY($4::bigint[]) AND EXISTS (SELECT FROM lead)
), ended AS (
    UPDATE task t
    SET state = 'succeeded', hold = 0, due_at = NULL
    FROM lead, unnest($5::bigint[], $6::int[]) AS a(id, epoch)
    WHERE t.id = a.id AND t.epoch = a.epoch AND t.state IN ('dispatched', 'retry_wait')
    RETURNING t.id, t.parent, t.children
), named AS (
    INSERT INTO artifact (task, goal, scope, generation, name, ref)
    SELECT m.task, m.goal, m.scope, m.generation, m.name, m.ref::json
    FROM lead, unnest($12::bigint[], $13::bigint[], $14::bigint[], $15::int[], $16::text[], $17::text[])
         AS m(task, goal, scope, generation, name, ref)
    ON CONFLICT (goal, scope, generation, name) DO UPDATE SET task = excluded.task, ref = excluded.ref
), recorded AS (
    INSERT INTO task_result (task, epoch, kind, at, seconds, summary, program, checks, worker)
    SELECT r.task, r.epoch, 'done', lead.now, r.seconds, r.summary, r.program::jsonb, r.checks::jsonb, r.worker
    FROM lead, unnest($5::bigint[], $6::int[], $7::float8[], $8::text[], $9::text[], $10::text[], $11::text[])
         AS r(task, epoch, seconds, summary, program, checks, worker)
    ON CONFLICT (task, epoch) DO UPDATE
    SET kind = excluded.kind, summary = excluded.summary, checks = excluded.checks,
        program = coalesce(excluded.program, task_result.program)
), counted AS (
    UPDATE task p
    SET open_children = p.open_children - done.n
    FROM (
        SELECT parent, count(*)::int AS n FROM ended WHERE parent IS NOT NULL
        GROUP BY parent ORDER BY parent
    ) AS done
    WHERE p.id = done.parent
    RETURNING p.open_children
), met AS (
    SELECT child, count(*)::int AS n FROM ended, unnest(ended.children) AS child GROUP BY child
), active AS (  -- IS TRUE keeps the look-up in it a hash
    SELECT num FROM goal WHERE num = ANY($23::bigint[]) AND status IN ('accepted', 'planning', 'running')
), next AS (  -- of those whose last need was met the best go at once, as far as there is room on their lanes
    SELECT child, n, CASE WHEN may AND row_number() OVER (PARTITION BY lane, may ORDER BY head_start DESC, child) <= room
                          THEN lease END AS lease
    FROM (
        SELECT met.child, met.n, t.lane, t.head_start, l.lease, l.room,
               l.lease IS NOT NULL AND t.state = 'blocked' AND t.unmet = met.n AND t.epoch = 0 AND NOT t.screened
               AND (t.goal IN (SELECT num FROM active)) IS TRUE AS may
        FROM met
        JOIN task t ON t.id = met.child
        LEFT JOIN unnest($20::text[], $21::int[], $22::float8[]) AS l(lane, room, lease) ON l.lane = t.lane
    ) AS free
), freed AS (
    UPDATE task t
    SET unmet = t.unmet - step.n,
        state = CASE WHEN t.state <> 'blocked' OR t.unmet > step.n THEN t.state
                     WHEN step.lease IS NOT NULL THEN 'dispatched'
                     WHEN t.lane = 'human' THEN 'parked'
                     ELSE 'ready' END,
        ready_at = CASE WHEN t.state = 'blocked' AND t.unmet = step.n THEN step.now ELSE t.ready_at END,
        rank = CASE WHEN t.state = 'blocked' AND t.unmet = step.n
                    THEN t.head_start - extract(epoch FROM step.now) ELSE t.rank END,
        epoch = CASE WHEN step.lease IS NULL THEN t.epoch ELSE t.epoch + 1 END,
        dispatched_at = CASE WHEN step.lease IS NULL THEN t.dispatched_at ELSE step.now END,
        due_at = CASE WHEN step.lease IS NULL THEN t.due_at ELSE step.now + step.lease * interval '1 second' END
    FROM (SELECT next.*, lead.now FROM lead, next ORDER BY next.child) AS step
    WHERE t.id = step.child
    RETURNING t.id, t.goal, t.parent, t.generation, t.depth, t.lane, t.epoch, t.turn, t.failures, t.expansions,
              t.due_at, t.dispatched_at, t.rank, t.unmet, t.state, t.screened, step.lease
), chosen AS (
    UPDATE task t
    SET state = 'dispatched', epoch = t.epoch + 1, hold = 0, announced = false, dispatched_at = lead.now,
        due_at = lead.now + c.lease * interval '1 second'
    FROM lead, unnest($18::bigint[], $19::float8[]) AS c(id, lease)
    WHERE t.id = c.id AND t.state = 'ready'
      AND (t.goal IN (SELECT num FROM active)) IS TRUE
    RETURNING t.id, t.goal, t.parent, t.generation, t.depth, t.lane, t.epoch, t.turn, t.failures, t.expansions,
              t.due_at, t.dispatched_at, t.rank, t.unmet, t.state, t.screened, c.lease
), sent AS (
    SELECT * FROM freed WHERE lease IS NOT NULL
    UNION ALL
    SELECT * FROM chosen
), line AS (
    SELECT l.goal, l.first, l.answers, l.told,
           to_char(lead.now AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at
    FROM lead, unnest($23::bigint[], $24::bigint[], $25::int[], $26::text[]) AS l(goal, first, answers, told)
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
    FROM sent t
    JOIN line ON line.goal = t.goal
    JOIN goal g ON g.num = t.goal
    JOIN task_spec s ON s.id = t.id
    LEFT JOIN expansion x ON x.parent = t.id AND x.generation = t.expansions
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
        WHEN (SELECT count(*) FROM ended) < cardinality($5::bigint[]) THEN 'late'
        WHEN (SELECT count(*) FROM advanced) < cardinality($23::bigint[]) THEN 'numbered by somebody else'
        WHEN EXISTS (SELECT FROM counted WHERE open_children = 0) THEN 'whole'
        WHEN EXISTS (SELECT FROM freed WHERE unmet = 0 AND state = 'parked') THEN 'asked'
        WHEN EXISTS (SELECT FROM freed WHERE unmet = 0 AND state = 'ready' AND screened AND epoch = 0) THEN 'screened'
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
FROM freed WHERE unmet = 0 AND state = 'ready'
UNION ALL
SELECT 'outbox', id, goal, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
       NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM stored
