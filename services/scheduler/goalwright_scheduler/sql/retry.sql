-- A task waits before it is ready again. $1 id, $2 epoch, $3 when, $4 failures to add
UPDATE task
SET state = 'retry_wait', hold = 0, due_at = $3, failures = failures + $4
WHERE id = $1 AND epoch = $2 AND state IN ('dispatched', 'checking')
RETURNING id, failures
