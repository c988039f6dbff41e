-- The last generation of resumed tasks, with results. $1 parents
-- OFFSET 0 keeps each look-up a look-up: joined freely, young statistics make it a scan of the scope for each child.
SELECT t.parent, t.id, s.key, t.state, r.summary, e.error,
       (SELECT coalesce(jsonb_object_agg(a.name, a.ref), '{}')
        FROM unnest(s.outputs) AS named(name)
        CROSS JOIN LATERAL (
            SELECT name, ref, task FROM artifact
            WHERE goal = t.goal AND scope = t.parent AND generation = t.generation AND name = named.name OFFSET 0
        ) AS a
        WHERE a.task = t.id
       ) AS outputs
FROM unnest($1::bigint[]) AS wanted(id)
CROSS JOIN LATERAL (SELECT id, expansions FROM task WHERE id = wanted.id OFFSET 0) AS p
CROSS JOIN LATERAL (
    SELECT id, goal, parent, generation, state FROM task
    WHERE parent = p.id AND generation = p.expansions OFFSET 0
) AS t
CROSS JOIN LATERAL (SELECT key, outputs FROM task_spec WHERE id = t.id OFFSET 0) AS s
LEFT JOIN LATERAL (SELECT summary FROM task_result WHERE task = t.id AND kind = 'done' OFFSET 0) AS r ON true
LEFT JOIN LATERAL (
    SELECT error FROM task_result f WHERE f.task = t.id AND f.error IS NOT NULL ORDER BY epoch DESC LIMIT 1
) AS e ON t.state <> 'succeeded'
ORDER BY t.parent, t.id
