-- Tasks parked over the budget may go on: ready when all they need is there, else blocked. $1 ids, $2 now
UPDATE task t
SET state = CASE WHEN t.unmet = 0 THEN 'ready' ELSE 'blocked' END, over_budget = NULL,
    ready_at = CASE WHEN t.unmet = 0 THEN coalesce(t.ready_at, $2) ELSE t.ready_at END,
    rank = CASE WHEN t.unmet = 0
                THEN t.head_start - extract(epoch FROM coalesce(t.ready_at, $2::timestamptz)) ELSE t.rank END
WHERE t.id = ANY($1::bigint[]) AND t.state = 'parked' AND t.over_budget IS NOT NULL
RETURNING t.id, t.goal, t.lane, t.rank, t.state, t.screened AND t.epoch = 0 AS screened
