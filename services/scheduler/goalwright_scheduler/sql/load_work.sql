-- Everything a Work message holds that one row each can give. $1 ids
SELECT t.id, t.goal, t.parent, t.generation, t.depth, t.lane, t.epoch, t.turn, t.failures, t.hold,
       t.expansions, s.key, s.spec, s.inputs, s.outputs,
       g.goal_id, g.owner, g.deadline, g.budget - g.spent - g.held AS budget_left,
       x.continuation, x.kind AS expansion_kind
FROM task t
JOIN task_spec s ON s.id = t.id
JOIN goal g ON g.num = t.goal
LEFT JOIN expansion x ON x.parent = t.id AND x.generation = t.expansions
WHERE t.id = ANY($1::bigint[])
