-- Who has done the same for the same owner in another goal, latest first. $1 goals, $2 hashes
SELECT wanted.goal, wanted.hash, found.task
FROM unnest($1::bigint[], $2::bytea[]) AS wanted(goal, hash)
JOIN goal g ON g.num = wanted.goal
CROSS JOIN LATERAL (
    SELECT c.task FROM contract c JOIN goal other ON other.num = c.goal JOIN task t ON t.id = c.task
    WHERE c.hash = wanted.hash AND c.goal <> wanted.goal AND other.owner = g.owner AND t.state = 'succeeded'
    ORDER BY c.task DESC LIMIT 1
) AS found
