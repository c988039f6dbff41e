-- The output caps that prompts of tasks' own set for their first turns; a later turn may ask for the lane's. $1 ids
SELECT t.id, (s.spec #>> '{prompt,max_output_tokens}')::bigint AS cap
FROM unnest($1::bigint[]) AS a(id) JOIN task t ON t.id = a.id JOIN task_spec s ON s.id = t.id
WHERE t.turn = 0
