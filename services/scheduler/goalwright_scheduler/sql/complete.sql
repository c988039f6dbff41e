-- Complete tasks whose current epoch has answered, keep what they made, release their dependants, count down
-- their parents. Guarded by epoch and state: a redelivered or late answer changes no row and so does nothing.
-- $1 ids, $2 epochs, $3 states they may end from, $4 now;
-- what they made: $5 tasks, $6 goals, $7 scopes, $8 generations, $9 names, $10 refs;
-- their tries: $11 tasks, $12 epochs, $13 seconds, $14 summaries, $15 programs, $16 checks, $17 workers, $18 calls
WITH answer AS (
    SELECT a.id, a.epoch FROM unnest($1::bigint[], $2::int[]) AS a(id, epoch)
), ended AS (
    UPDATE task t
    SET state = 'succeeded', hold = 0, due_at = NULL
    FROM answer a
    WHERE t.id = a.id AND t.epoch = a.epoch AND t.state = ANY($3::text[])
    RETURNING t.id, t.goal, t.parent, t.children
), named AS (  -- IS TRUE keeps the look-up in `ended` a hash
    INSERT INTO artifact (task, goal, scope, generation, name, ref)
    SELECT m.task, m.goal, m.scope, m.generation, m.name, m.ref::json
    FROM unnest($5::bigint[], $6::bigint[], $7::bigint[], $8::int[], $9::text[], $10::text[])
         AS m(task, goal, scope, generation, name, ref)
    WHERE (m.task IN (SELECT id FROM ended)) IS TRUE
    ON CONFLICT (goal, scope, generation, name) DO UPDATE SET task = excluded.task, ref = excluded.ref
), recorded AS (
    INSERT INTO task_result (task, epoch, kind, at, seconds, summary, program, checks, worker, call)
    SELECT r.task, r.epoch, 'done', $4, r.seconds, r.summary, r.program::jsonb, r.checks::jsonb, r.worker, r.call::jsonb
    FROM unnest($11::bigint[], $12::int[], $13::float8[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[])
         AS r(task, epoch, seconds, summary, program, checks, worker, call)
    WHERE (r.task IN (SELECT id FROM ended)) IS TRUE
    ON CONFLICT (task, epoch) DO UPDATE
    SET kind = excluded.kind, summary = excluded.summary, checks = excluded.checks,
        program = coalesce(excluded.program, task_result.program), call = coalesce(excluded.call, task_result.call)
), freed AS (
    UPDATE task t
    SET unmet = t.unmet - met.n,
        state = CASE WHEN t.state = 'blocked' AND t.unmet = met.n
                     THEN CASE t.lane WHEN 'human' THEN 'parked' ELSE 'ready' END
                     ELSE t.state END,
        ready_at = CASE WHEN t.state = 'blocked' AND t.unmet = met.n THEN $4 ELSE t.ready_at END,
        rank = CASE WHEN t.state = 'blocked' AND t.unmet = met.n
                    THEN t.head_start - extract(epoch FROM $4::timestamptz) ELSE t.rank END
    FROM (
        SELECT child, count(*)::int AS n FROM ended, unnest(ended.children) AS child
        GROUP BY child ORDER BY child
    ) AS met
    WHERE t.id = met.child
    RETURNING t.id, t.goal, t.lane, t.rank, t.state, t.unmet, t.screened AND t.epoch = 0 AS screened
), counted AS (
    UPDATE task p
    SET open_children = p.open_children - done.n
    FROM (
        SELECT parent, count(*)::int AS n FROM ended WHERE parent IS NOT NULL
        GROUP BY parent ORDER BY parent
    ) AS done
    WHERE p.id = done.parent
    RETURNING p.id, p.goal, p.open_children
)
SELECT 'ended' AS what, id, goal, NULL AS lane, NULL::float8 AS rank, false AS screened FROM ended
UNION ALL
SELECT state, id, goal, lane, rank, screened FROM freed WHERE unmet = 0 AND state IN ('ready', 'parked')
UNION ALL
SELECT 'whole', id, goal, NULL, NULL, false FROM counted WHERE open_children = 0
