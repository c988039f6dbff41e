-- The best ready tasks of a lane in goals that may run. $1 lane, $2 how many
SELECT t.id, t.goal, t.lane, t.rank FROM task t JOIN goal g ON g.num = t.goal
WHERE t.state = 'ready' AND t.lane = $1 AND g.status IN ('accepted', 'planning', 'running')
ORDER BY t.rank DESC LIMIT $2
