-- From now on these tasks are whom twins wait for. $1 goals, $2 hashes, $3 tasks
INSERT INTO contract (goal, hash, task)
SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bigint[])
ON CONFLICT (goal, hash) DO UPDATE SET task = excluded.task
