-- Make tasks ready whose retry wait is over. $1 now, $2 how many
UPDATE task t
SET state = 'ready', due_at = NULL, ready_at = coalesce(t.ready_at, $1),
    rank = t.head_start - extract(epoch FROM coalesce(t.ready_at, $1::timestamptz))
WHERE t.id IN (
    SELECT id FROM task WHERE state = 'retry_wait' AND due_at <= $1 ORDER BY due_at LIMIT $2
)
RETURNING t.id, t.goal, t.lane, t.rank
