-- Settle open bills once, and move the money: what was held is spent up to the hold, the rest is overrun.
-- $1 tasks, $2 epochs, $3 charged, $4 overrun, $5 models, $6 tokens in, $7 cached, $8 tokens out, $9 why, $10 now
WITH bill AS (
    UPDATE ledger l
    SET charged = least(b.charged, l.hold), overrun = b.overrun, model = b.model, tokens_in = b.tokens_in,
        tokens_cached = b.tokens_cached, tokens_out = b.tokens_out, why = b.why, settled_at = $10
    FROM unnest($1::bigint[], $2::int[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[],
                $8::bigint[], $9::text[])
         AS b(task, epoch, charged, overrun, model, tokens_in, tokens_cached, tokens_out, why)
    WHERE l.task = b.task AND l.epoch = b.epoch AND l.settled_at IS NULL
    RETURNING l.goal, l.hold, l.charged, l.overrun
), moved AS (
    SELECT goal, sum(hold)::bigint AS hold, sum(charged)::bigint AS charged, sum(overrun)::bigint AS overrun
    FROM bill GROUP BY goal ORDER BY goal
)
UPDATE goal g
SET held = g.held - m.hold, spent = g.spent + m.charged, overrun = g.overrun + m.overrun
FROM moved m
WHERE g.num = m.goal
RETURNING g.num, m.overrun
