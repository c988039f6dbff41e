-- The values of the tasks' named inputs: the parent's (generation 0) or a sibling's. $1 ids
SELECT DISTINCT ON (t.id, a.name) t.id, a.name, a.ref
FROM task t
JOIN task_spec s ON s.id = t.id
JOIN artifact a ON a.goal = t.goal AND a.scope = coalesce(t.parent, 0)
               AND a.generation IN (0, t.generation) AND a.name = ANY(s.inputs)
WHERE t.id = ANY($1::bigint[])
ORDER BY t.id, a.name, a.generation DESC
