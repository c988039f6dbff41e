-- A page of a goal's tasks, with what each needs, its cost and its summary. $1 goal, $2 after this id, $3 how many
SELECT t.*, s.key, s.spec, s.inputs, s.outputs, s.value,
       coalesce(n.needs, '{}') AS needs, coalesce(l.cost, 0) AS cost, r.summary
FROM (SELECT * FROM task WHERE goal = $1 AND id > $2 ORDER BY id LIMIT $3) AS t
JOIN task_spec s ON s.id = t.id
LEFT JOIN (
    SELECT child, array_agg(p.id) AS needs FROM task p, unnest(p.children) AS child WHERE p.goal = $1 GROUP BY child
) AS n ON n.child = t.id
LEFT JOIN (SELECT task, sum(charged + overrun) AS cost FROM ledger WHERE goal = $1 GROUP BY task) AS l
    ON l.task = t.id
LEFT JOIN LATERAL (
    SELECT summary FROM task_result WHERE task = t.id AND kind IN ('done', 'revise') ORDER BY epoch DESC LIMIT 1
) AS r ON true
ORDER BY t.id
