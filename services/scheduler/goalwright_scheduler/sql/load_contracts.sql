-- Who does the same in the same goal. $1 goals, $2 hashes
SELECT c.goal, c.hash, c.task, t.state, t.parent, t.generation
FROM unnest($1::bigint[], $2::bytea[]) AS wanted(goal, hash)
JOIN contract c ON c.goal = wanted.goal AND c.hash = wanted.hash
JOIN task t ON t.id = c.task
