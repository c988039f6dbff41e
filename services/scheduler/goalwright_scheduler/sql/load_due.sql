-- Every lease, retry wait and question of goals that are open, for a new leader.
SELECT t.id, t.due_at FROM goal g JOIN task t ON t.goal = g.num
WHERE g.finished_at IS NULL AND t.state IN ('dispatched', 'parked', 'retry_wait') AND t.due_at IS NOT NULL
