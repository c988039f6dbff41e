-- The first statement of every write: only the leader of this term may go on, and its lease runs anew. Outbox rows
-- whose events are published for good go with it. $1 term, $2 holder, $3 lease in seconds, $4 outbox rows
WITH lead AS (
    UPDATE leader SET until = goalwright_clock() + $3::float8 * interval '1 second'
    WHERE term = $1 AND holder = $2
    RETURNING goalwright_clock() AS now
), published AS (
    DELETE FROM outbox WHERE id = ANY($4::bigint[]) AND EXISTS (SELECT FROM lead)
)
SELECT now FROM lead
