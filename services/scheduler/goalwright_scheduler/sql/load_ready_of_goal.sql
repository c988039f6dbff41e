-- Ready tasks of one goal, for when it may run (or pay) again. $1 goal
SELECT id, goal, lane, rank FROM task WHERE goal = $1 AND state = 'ready'
