-- Load tasks with their text and their goal, for deciding about outcomes and control. $1 ids
SELECT t.id, t.goal, t.parent, t.generation, t.depth, t.lane, t.state, t.epoch, t.turn, t.failures, t.unmet,
       t.expansions, t.open_children, t.hold, t.announced, t.dispatched_at, t.head_start,
       s.key, s.spec, g.goal_id, g.owner, g.status AS goal_status, g.root_task
FROM task t
JOIN task_spec s ON s.id = t.id
JOIN goal g ON g.num = t.goal
WHERE t.id = ANY($1::bigint[])
