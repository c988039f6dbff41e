-- Number the events of this commit (gapless per goal) and put them in the outbox. The caller knows the numbers; a
-- goal that is not among the rows had another next number. $1 goals, $2 first numbers, $3 how many each,
-- $4 the events as JSON arrays, $5 now
WITH commits AS (
    SELECT c.goal, c.first, c.n, c.events FROM unnest($1::bigint[], $2::bigint[], $3::int[], $4::text[]) AS c(goal, first, n, events)
), numbered AS (
    UPDATE goal g SET next_seq = c.first + c.n FROM commits c WHERE g.num = c.goal AND g.next_seq = c.first
    RETURNING g.num
)
INSERT INTO outbox (goal, first_seq, at, events)
SELECT c.goal, c.first, $5, c.events FROM numbered n JOIN commits c ON c.goal = n.num ORDER BY c.goal
RETURNING id, goal
