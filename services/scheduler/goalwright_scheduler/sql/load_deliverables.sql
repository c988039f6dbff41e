-- What a goal hands back: exported by its root, or already made inside the root's generation.
-- One look at the primary key per name. $1 goal, $2 root task
SELECT wanted.name, found.ref
FROM task t
JOIN task_spec s ON s.id = t.id
CROSS JOIN LATERAL unnest(s.outputs) AS wanted(name)
CROSS JOIN LATERAL (
    SELECT a.ref FROM (
        (SELECT 0 AS place, ref FROM artifact
         WHERE goal = $1 AND scope = 0 AND generation = 0 AND name = wanted.name AND task IS NOT NULL)
        UNION ALL
        (SELECT 1, ref FROM artifact
         WHERE goal = $1 AND scope = t.id AND generation = t.expansions AND name = wanted.name AND task IS NOT NULL)
    ) AS a ORDER BY a.place LIMIT 1
) AS found
WHERE t.id = $2
