-- Errors of earlier tries, oldest first. $1 ids
SELECT task, error FROM task_result WHERE task = ANY($1::bigint[]) AND error IS NOT NULL ORDER BY task, epoch
