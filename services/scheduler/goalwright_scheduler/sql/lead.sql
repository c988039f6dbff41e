-- Take the lead when nobody has it or its lease is over: a new term. $1 holder, $2 lease in seconds
INSERT INTO leader (term, holder, until)
VALUES (1, $1, goalwright_clock() + $2::float8 * interval '1 second')
ON CONFLICT (one) DO UPDATE
SET term = leader.term + 1, holder = excluded.holder, until = excluded.until
WHERE leader.until < goalwright_clock()
RETURNING term
