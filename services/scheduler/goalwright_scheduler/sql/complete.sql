-- Complete tasks whose current epoch has answered, keep what they made, release their dependants, count down
-- their parents. Guarded by epoch and state: a redelivered or late answer changes no row and so does nothing.
-- $1 ids, $2 epochs, $3 states they may end from, $4 now; what they made: $5 tasks, $6 names, $7 refs;
-- their tries: $8 tasks, $9 seconds, $10 summaries, $11 programs, $12 checks, $13 workers
WITH answer AS (
    SELECT a.id, a.epoch FROM unnest($1::bigint[], $2::int[]) AS a(id, epoch)
), ended AS (
    UPDATE task t
    SET state = 'succeeded', hold = 0, due_at = NULL
    FROM answer a
    WHERE t.id = a.id AND t.epoch = a.epoch AND t.state = ANY($3::text[])
    RETURNING t.id, t.goal, t.parent, t.generation, t.epoch, t.children
), named AS (
    INSERT INTO artifact (goal, scope, generation, name, task, ref)
    SELECT e.goal, coalesce(e.parent, 0), CASE WHEN e.parent IS NULL THEN 0 ELSE e.generation END,
           made.name, e.id, made.ref::json
    FROM unnest($5::bigint[], $6::text[], $7::text[]) AS made(task, name, ref) JOIN ended e ON e.id = made.task
    ON CONFLICT (goal, scope, generation, name) DO UPDATE SET task = excluded.task, ref = excluded.ref
), recorded AS (
    INSERT INTO task_result (task, epoch, kind, at, seconds, summary, program, checks, worker)
    SELECT e.id, e.epoch, 'done', $4, r.seconds, r.summary, r.program::jsonb, r.checks::jsonb, r.worker
    FROM unnest($8::bigint[], $9::float8[], $10::text[], $11::text[], $12::text[], $13::text[])
         AS r(task, seconds, summary, program, checks, worker) JOIN ended e ON e.id = r.task
    ON CONFLICT (task, epoch) DO UPDATE
    SET kind = excluded.kind, summary = excluded.summary, checks = excluded.checks,
        program = coalesce(excluded.program, task_result.program)
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
    RETURNING t.id, t.goal, t.lane, t.rank, t.state, t.unmet
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
SELECT 'ended' AS what, id, goal, NULL AS lane, NULL::float8 AS rank FROM ended
UNION ALL
SELECT state, id, goal, lane, rank FROM freed WHERE unmet = 0 AND state IN ('ready', 'parked')
UNION ALL
SELECT 'whole', id, goal, NULL, NULL FROM counted WHERE open_children = 0
