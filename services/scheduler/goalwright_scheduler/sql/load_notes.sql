-- The newest notes of goals, at most 10 pinned ones and 30 others each, pinned ones first. $1 goals
SELECT g.goal, n.id AS number, n.text, n.author, n.key, n.pinned, n.at
FROM unnest($1::bigint[]) AS g(goal)
CROSS JOIN LATERAL (
    (SELECT * FROM note WHERE goal = g.goal AND pinned ORDER BY id DESC LIMIT 10)
    UNION ALL
    (SELECT * FROM note WHERE goal = g.goal AND NOT pinned ORDER BY id DESC LIMIT 30)
) AS n
ORDER BY g.goal, n.pinned DESC, n.id DESC
