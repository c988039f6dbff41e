-- The specs of all tasks above these, nearest first. $1 ids
WITH RECURSIVE above AS (
    SELECT t.id AS task, t.parent AS id, 1 AS distance FROM task t WHERE t.id = ANY($1::bigint[])
    UNION ALL
    SELECT a.task, t.parent, a.distance + 1 FROM above a JOIN task t ON t.id = a.id
)
SELECT a.task, s.spec FROM above a JOIN task_spec s ON s.id = a.id ORDER BY a.task, a.distance
