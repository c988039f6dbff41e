-- Ready tasks of one goal, for when it may run (or pay) again; none where it may not. $1 goal
SELECT t.id, t.goal, t.lane, t.rank
FROM goal g JOIN task t ON t.goal = g.num
WHERE g.num = $1 AND g.status IN ('accepted', 'planning', 'running') AND t.state = 'ready'
