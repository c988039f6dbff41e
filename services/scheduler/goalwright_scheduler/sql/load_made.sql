-- What a task that has succeeded made: its declared outputs, in order those that are there, and its summary. $1 task
SELECT s.outputs, array_agg(made.name) AS names, array_agg(made.ref) AS refs,
       (SELECT r.summary FROM task_result r WHERE r.task = t.id AND r.kind = 'done') AS summary
FROM task t
JOIN task_spec s ON s.id = t.id
CROSS JOIN LATERAL unnest(s.outputs) AS wanted(name)
CROSS JOIN LATERAL (
    SELECT a.name, a.ref::text AS ref FROM artifact a
    WHERE a.goal = t.goal AND a.scope = coalesce(t.parent, 0)
      AND a.generation = CASE WHEN t.parent IS NULL THEN 0 ELSE t.generation END AND a.name = wanted.name OFFSET 0
) AS made
WHERE t.id = $1 AND t.state = 'succeeded'
GROUP BY t.id, s.outputs
