-- The first statement of every write: only the leader of this term may go on, and its lease runs anew.
-- $1 term, $2 holder, $3 lease in seconds
UPDATE leader SET until = goalwright_clock() + $3::float8 * interval '1 second'
WHERE term = $1 AND holder = $2
RETURNING goalwright_clock() AS now
