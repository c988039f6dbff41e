-- Open tasks have other head starts now; waiting counts on. $1 ids, $2 head starts
UPDATE task t
SET head_start = r.start, rank = CASE WHEN t.state = 'ready' THEN t.rank + r.start - t.head_start ELSE t.rank END
FROM unnest($1::bigint[], $2::float8[]) AS r(id, start)
WHERE t.id = r.id AND t.state NOT IN ('succeeded', 'dead', 'cancelled', 'skipped') AND t.head_start <> r.start
RETURNING t.id, t.goal, t.lane, t.rank, t.state
