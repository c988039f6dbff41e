-- The last generation of resumed tasks, with results. $1 parents
SELECT t.parent, t.id, s.key, t.state, r.summary, e.error,
       (SELECT coalesce(jsonb_object_agg(a.name, a.ref), '{}')
        FROM artifact a
        WHERE a.goal = t.goal AND a.scope = t.parent AND a.generation = t.generation AND a.task = t.id
       ) AS outputs
FROM task p
JOIN task t ON t.parent = p.id AND t.generation = p.expansions
JOIN task_spec s ON s.id = t.id
LEFT JOIN task_result r ON r.task = t.id AND r.kind = 'done'
LEFT JOIN LATERAL (
    SELECT error FROM task_result f WHERE f.task = t.id AND f.error IS NOT NULL ORDER BY epoch DESC LIMIT 1
) AS e ON t.state <> 'succeeded'
WHERE p.id = ANY($1::bigint[])
ORDER BY t.parent, t.id
