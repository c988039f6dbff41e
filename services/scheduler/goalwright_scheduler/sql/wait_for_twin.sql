-- Tasks that were ready wait for a twin that is being done. $1 tasks, $2 twins
WITH waiting AS (
    UPDATE task t SET state = 'blocked'
    FROM unnest($1::bigint[], $2::bigint[]) AS w(task, twin)
    WHERE t.id = w.task AND t.state = 'ready'
    RETURNING t.id, w.twin
)
INSERT INTO follower (task, leader) SELECT id, twin FROM waiting ON CONFLICT (task) DO UPDATE SET leader = excluded.leader
