-- Make a task ready again with its first `ready_at`: its generation has ended, or it wants another turn.
-- $1 id, $2 epoch, $3 states it may come from, $4 turns to add
UPDATE task
SET state = 'ready', hold = 0, due_at = NULL, turn = turn + $4,
    ready_at = coalesce(ready_at, goalwright_clock()),
    rank = head_start - extract(epoch FROM coalesce(ready_at, goalwright_clock()))
WHERE id = $1 AND epoch = $2 AND state = ANY($3::text[]) AND over_budget IS NULL
RETURNING id, goal, lane, rank
