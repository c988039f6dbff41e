-- A task's replicas in order, with what they made in the order of the declared outputs. $1 task, $2 first generation
SELECT t.id, t.state, r.summary, array(
           SELECT found.ref FROM unnest(s.outputs) WITH ORDINALITY AS wanted(name, place)
           CROSS JOIN LATERAL (
               SELECT a.ref::text AS ref FROM artifact a
               WHERE a.goal = t.goal AND a.scope = t.parent AND a.generation = t.generation AND a.name = wanted.name
               OFFSET 0
           ) AS found
           ORDER BY wanted.place
       ) AS refs
FROM (SELECT * FROM task WHERE parent = $1 AND generation >= $2 OFFSET 0) AS t
CROSS JOIN LATERAL (SELECT outputs FROM task_spec WHERE id = t.id OFFSET 0) AS s
LEFT JOIN LATERAL (SELECT summary FROM task_result WHERE task = t.id AND kind = 'done' OFFSET 0) AS r ON true
ORDER BY t.id
