-- Of the tasks whose time may have come, those that still wait for one, and when it comes: leases, retry waits,
-- questions. $1 ids
SELECT id, state, due_at FROM task
WHERE id = ANY($1::bigint[]) AND state IN ('dispatched', 'parked', 'retry_wait') AND due_at IS NOT NULL
