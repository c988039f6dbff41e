-- Questions to other roles: the answer, and the cost of all that was done for it. $1 asked tasks, $2 a task that asked
WITH RECURSIVE wanted AS (
    SELECT t.id FROM task t JOIN task_spec s ON s.id = t.id
    WHERE (t.id = ANY($1::bigint[]) OR t.parent = $2::bigint) AND s.spec->>'asked' IS NOT NULL
), below AS (
    SELECT w.id AS asked, w.id FROM wanted w
    UNION
    SELECT b.asked, t.id FROM below b JOIN task t ON t.parent = b.id
), cost AS (
    SELECT b.asked, sum(l.charged + l.overrun) AS cost FROM below b JOIN ledger l ON l.task = b.id GROUP BY b.asked
)
SELECT t.id, t.goal, t.parent, t.lane, t.state, s.key, s.spec, coalesce(c.cost, 0) AS cost, r.summary, e.error,
       a.ref->>'inline' AS answer
FROM wanted w
JOIN task t ON t.id = w.id
JOIN task_spec s ON s.id = w.id
LEFT JOIN cost c ON c.asked = w.id
LEFT JOIN LATERAL (
    SELECT summary FROM task_result WHERE task = w.id AND kind = 'done' ORDER BY epoch DESC LIMIT 1
) AS r ON true
LEFT JOIN LATERAL (
    SELECT error FROM task_result WHERE task = w.id AND error IS NOT NULL ORDER BY epoch DESC LIMIT 1
) AS e ON t.state <> 'succeeded'
LEFT JOIN artifact a ON a.goal = t.goal AND a.scope = t.parent AND a.generation = t.generation AND a.name = s.outputs[1]
ORDER BY t.id
