-- What a task that has succeeded made: its declared outputs, in order those that are there; and how. $1 task
SELECT s.outputs, made.names, made.refs, r.summary, r.program, r.checks
FROM task t
JOIN task_spec s ON s.id = t.id
CROSS JOIN LATERAL (
    SELECT array_agg(found.name) AS names, array_agg(found.ref) AS refs
    FROM unnest(s.outputs) AS wanted(name)
    CROSS JOIN LATERAL (
        SELECT a.name, a.ref::text AS ref FROM artifact a
        WHERE a.goal = t.goal AND a.scope = coalesce(t.parent, 0)
          AND a.generation = CASE WHEN t.parent IS NULL THEN 0 ELSE t.generation END AND a.name = wanted.name OFFSET 0
    ) AS found
) AS made
LEFT JOIN task_result r ON r.task = t.id AND r.kind = 'done'
WHERE t.id = $1 AND t.state = 'succeeded'
