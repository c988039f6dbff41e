-- The money of open goals, and whether anything of them can go on as it is. $1 goals
SELECT g.num, g.status, g.root_task, g.budget, g.spent, g.budget - g.fenced - g.spent - g.held AS may_spend,
       EXISTS (
           SELECT FROM task t
           WHERE t.goal = g.num AND (t.state IN ('ready', 'dispatched', 'retry_wait')
                                     OR t.state = 'parked' AND t.over_budget IS NULL)
       ) AS busy
FROM goal g
WHERE g.num = ANY($1::bigint[]) AND g.status IN ('accepted', 'planning', 'running', 'paused')
