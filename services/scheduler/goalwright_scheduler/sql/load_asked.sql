-- Questions to other roles: the answer, and the cost of all that was done for it. $1 asked tasks, $2 a task that asked.
-- One look at a primary key for each: joins would read whole tables where their statistics are young.
WITH RECURSIVE wanted AS MATERIALIZED (
    SELECT t.id, t.goal, t.parent, t.generation, t.lane, t.state, s.key, s.spec, s.outputs
    FROM task t CROSS JOIN LATERAL (SELECT * FROM task_spec WHERE id = t.id OFFSET 0) AS s
    WHERE (t.id = ANY($1::bigint[]) OR t.parent = $2::bigint) AND s.spec->>'asked' IS NOT NULL
), below AS (
    SELECT w.id AS asked, w.id FROM wanted w
    UNION
    SELECT b.asked, t.id FROM below b JOIN task t ON t.parent = b.id
), cost AS (
    SELECT b.asked, sum((SELECT sum(charged + overrun) FROM ledger WHERE task = b.id)) AS cost
    FROM below b GROUP BY b.asked
)
SELECT w.id, w.goal, w.parent, w.lane, w.state, w.key, w.spec, coalesce(c.cost, 0) AS cost,
       (SELECT summary FROM task_result WHERE task = w.id AND kind = 'done' ORDER BY epoch DESC LIMIT 1) AS summary,
       CASE WHEN w.state <> 'succeeded' THEN (
           SELECT error FROM task_result WHERE task = w.id AND error IS NOT NULL ORDER BY epoch DESC LIMIT 1
       ) END AS error,
       (SELECT ref->>'inline' FROM artifact
        WHERE goal = w.goal AND scope = w.parent AND generation = w.generation AND name = w.outputs[1]) AS answer
FROM wanted w LEFT JOIN cost c ON c.asked = w.id
ORDER BY w.id
