-- A task now waits for a generation of children. $1 id, $2 epoch, $3 new state, $4 children,
-- $5 states it may come from
UPDATE task
SET state = $3, expansions = expansions + 1, open_children = $4, hold = 0, due_at = NULL
WHERE id = $1 AND epoch = $2 AND state = ANY($5::text[])
RETURNING expansions
