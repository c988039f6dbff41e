-- What the open tasks of a goal on lanes with a price are estimated at, by lane; what runs is held already.
-- `nested` ones are below the tasks of the plan; `unknown` ones have no estimate. $1 goal, $2 lanes
SELECT t.lane, t.depth > 1 AS nested, count(*) AS tasks, count(*) FILTER (WHERE e.tokens_in + e.tokens_out = 0) AS unknown,
       sum(e.tokens_in) AS tokens_in, sum(e.tokens_out) AS tokens_out
FROM task t
JOIN task_spec s ON s.id = t.id
CROSS JOIN LATERAL (
    SELECT coalesce((s.spec #>> '{effort,tokens_in}')::float8, 0) AS tokens_in,
           coalesce((s.spec #>> '{effort,tokens_out}')::float8, 0) AS tokens_out
) AS e
WHERE t.goal = $1 AND t.lane = ANY($2::text[])
  AND t.state IN ('blocked', 'ready', 'parked', 'retry_wait', 'expanded', 'checking')
GROUP BY 1, 2
