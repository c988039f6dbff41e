-- Tasks that waited for twins are ready. $1 twins
WITH gone AS (
    DELETE FROM follower WHERE leader = ANY($1::bigint[]) RETURNING task
)
UPDATE task t SET state = 'ready'
WHERE t.id = ANY(array(SELECT task FROM gone)) AND t.state = 'blocked' AND t.unmet = 0
RETURNING t.id, t.goal, t.lane, t.rank
