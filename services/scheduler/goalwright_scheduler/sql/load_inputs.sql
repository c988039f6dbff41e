-- The values of the tasks' named inputs: a sibling's, or what the parent brought (generation 0). $1 ids
-- One look at the primary key per name: a join by ANY(names) would read the whole scope when its statistics are young.
SELECT t.id, named.name, found.ref
FROM task t
JOIN task_spec s ON s.id = t.id
CROSS JOIN LATERAL unnest(s.inputs) AS named(name)
CROSS JOIN LATERAL (
    SELECT a.ref FROM artifact a
    WHERE a.goal = t.goal AND a.scope = coalesce(t.parent, 0) AND a.generation IN (0, t.generation)
      AND a.name = named.name
    ORDER BY a.generation DESC LIMIT 1
) AS found
WHERE t.id = ANY($1::bigint[])
