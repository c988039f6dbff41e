-- Goals that lack money: whether anything of theirs goes on all the same, and whether anything lacks money still.
-- $1 goals, $2 ready tasks of theirs that were too dear
SELECT g.num, g.budget, g.spent, g.held,
       g.held > 0
       OR EXISTS (SELECT FROM task t WHERE t.goal = g.num AND t.state IN ('dispatched', 'retry_wait'))
       OR (SELECT count(*) FROM task t WHERE t.goal = g.num AND t.state = 'ready') > dear.tasks AS busy,
       dear.tasks > 0
       OR EXISTS (SELECT FROM task t WHERE t.goal = g.num AND t.over_budget IS NOT NULL) AS short
FROM goal g,
     LATERAL (
         SELECT count(*) AS tasks FROM unnest($2::bigint[]) AS refused(id)
         WHERE (SELECT t.goal = g.num AND t.state = 'ready' FROM task t WHERE t.id = refused.id)
     ) dear
WHERE g.num = ANY ($1::bigint[])
