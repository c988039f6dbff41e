-- Park tasks that have not begun and whose deliverables the budget does not cover.
-- $1 ids, $2 what the cheapest deliverable of each would need, in micro-dollars
UPDATE task t
SET state = 'parked', over_budget = p.needs
FROM unnest($1::bigint[], $2::bigint[]) AS p(id, needs), task_spec s
WHERE t.id = p.id AND s.id = t.id AND t.state IN ('blocked', 'ready') AND t.epoch = 0
RETURNING t.id, t.lane, t.over_budget, s.key
