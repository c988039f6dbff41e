-- End open tasks without success and count down their parents. $1 ids, $2 the final state
WITH ended AS (
    UPDATE task t
    SET state = $2, hold = 0, due_at = NULL, over_budget = NULL, open_children = 0
    WHERE t.id = ANY($1::bigint[]) AND t.state NOT IN ('succeeded', 'dead', 'cancelled', 'skipped')
    RETURNING t.id, t.goal, t.parent, t.lane, t.epoch, old.state AS was, old.hold AS held
), counted AS (
    UPDATE task p
    SET open_children = p.open_children - closed.n
    FROM (
        SELECT parent, count(*)::int AS n FROM ended WHERE parent IS NOT NULL
        GROUP BY parent ORDER BY parent
    ) AS closed
    WHERE p.id = closed.parent AND NOT p.id = ANY($1::bigint[])
      AND p.state NOT IN ('succeeded', 'dead', 'cancelled', 'skipped')
    RETURNING p.id, p.goal, p.open_children
)
SELECT 'ended' AS what, e.id, e.goal, e.parent, e.lane, e.epoch, e.was, e.held, s.key
FROM ended e JOIN task_spec s ON s.id = e.id
UNION ALL
SELECT 'whole', id, goal, NULL, NULL, NULL, NULL, NULL, NULL FROM counted WHERE open_children = 0
