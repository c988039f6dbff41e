-- A page of a goal's tasks, with what each needs, its cost and its summary. $1 goal, $2 after this id, $3 how many
-- Edges are kept forward, so needs are found by one pass over the goal; IS TRUE keeps the page in a hash.
WITH page AS MATERIALIZED (
    SELECT * FROM task WHERE goal = $1 AND id > $2 ORDER BY id LIMIT $3
), needed AS MATERIALIZED (
    SELECT child AS id, array_agg(p.id ORDER BY p.id) AS needs FROM task p, unnest(p.children) AS child
    WHERE p.goal = $1 AND (child IN (SELECT id FROM page)) IS TRUE GROUP BY child
)
SELECT t.*, s.key, s.spec, s.inputs, s.outputs, s.value,
       coalesce(n.needs, '{}') AS needs, coalesce(l.cost, 0) AS cost, r.summary
FROM page t
CROSS JOIN LATERAL (SELECT key, spec, inputs, outputs, value FROM task_spec WHERE id = t.id OFFSET 0) AS s
LEFT JOIN needed n ON n.id = t.id
LEFT JOIN LATERAL (SELECT sum(charged + overrun) AS cost FROM ledger WHERE task = t.id) AS l ON true
LEFT JOIN LATERAL (
    SELECT summary FROM task_result WHERE task = t.id AND kind IN ('done', 'revise') ORDER BY epoch DESC LIMIT 1
) AS r ON true
ORDER BY t.id
