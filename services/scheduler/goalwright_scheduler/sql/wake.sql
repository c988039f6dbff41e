-- Make tasks ready whose retry wait is over. $1 now, $2 ids
UPDATE task t
SET state = 'ready', due_at = NULL, ready_at = coalesce(t.ready_at, $1),
    rank = t.head_start - extract(epoch FROM coalesce(t.ready_at, $1::timestamptz))
WHERE t.id = ANY($2::bigint[]) AND t.state = 'retry_wait' AND t.due_at <= $1
RETURNING t.id, t.goal, t.lane, t.rank
