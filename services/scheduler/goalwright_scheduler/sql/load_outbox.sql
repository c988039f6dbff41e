-- Events that were committed and perhaps not published, oldest first. $1 after which row, $2 how many rows
SELECT id, events FROM outbox WHERE id > $1 ORDER BY id LIMIT $2
