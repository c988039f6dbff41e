-- Events that were committed and perhaps not published, oldest first. $1 how many rows
SELECT o.id, o.first_seq, o.at, o.events, g.goal_id, g.owner
FROM outbox o JOIN goal g ON g.num = o.goal ORDER BY o.id LIMIT $1
