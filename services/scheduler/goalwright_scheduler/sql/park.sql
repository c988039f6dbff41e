-- A task waits for a person until $3 (null: for ever). $1 id, $2 states it may come from
UPDATE task
SET state = 'parked', hold = 0, due_at = $3, epoch = epoch + 1, dispatched_at = goalwright_clock()
WHERE id = $1 AND state = ANY($2::text[])
RETURNING epoch
