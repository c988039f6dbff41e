-- What tasks have cost in earlier tries, by their settled bills. $1 ids
SELECT task, sum(charged + overrun)::bigint AS paid FROM ledger
WHERE task = ANY($1::bigint[]) AND settled_at IS NOT NULL GROUP BY task
