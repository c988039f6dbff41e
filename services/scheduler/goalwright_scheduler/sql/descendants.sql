-- Open dependants of a task among its siblings, transitively. $1 ids
WITH RECURSIVE below AS (
    SELECT unnest(t.children) AS id FROM task t WHERE t.id = ANY($1::bigint[])
    UNION
    SELECT unnest(t.children) FROM task t JOIN below b ON t.id = b.id
)
SELECT t.id FROM task t JOIN below b ON b.id = t.id
WHERE t.state NOT IN ('succeeded', 'dead', 'cancelled', 'skipped')
