-- The output cap that a task's own prompt sets for its first turn; a later turn may ask for the lane's. $1 id
SELECT (s.spec #>> '{prompt,max_output_tokens}')::bigint
FROM task_spec s JOIN task t ON t.id = s.id
WHERE s.id = $1 AND t.turn = 0
