-- Dispatches whose lease is over, and questions whose time is. $1 now, $2 how many
SELECT id FROM task
WHERE state IN ('dispatched', 'parked') AND due_at <= $1
ORDER BY due_at LIMIT $2
