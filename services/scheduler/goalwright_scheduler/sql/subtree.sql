-- Open tasks under a task, itself included. $1 ids
WITH RECURSIVE below AS (
    SELECT unnest($1::bigint[]) AS id
    UNION
    SELECT t.id FROM task t JOIN below b ON t.parent = b.id
)
SELECT t.id FROM task t JOIN below b ON b.id = t.id
WHERE t.state NOT IN ('succeeded', 'dead', 'cancelled', 'skipped')
