-- Number the events of this commit (gapless per goal) and put them in the outbox.
-- $1 goals, $2 how many each, $3 their events as JSON arrays, $4 now
WITH commits AS (
    SELECT c.goal, c.n, c.events FROM unnest($1::bigint[], $2::int[], $3::text[]) AS c(goal, n, events)
), numbered AS (
    UPDATE goal g SET next_seq = g.next_seq + c.n FROM commits c WHERE g.num = c.goal
    RETURNING g.num, old.next_seq AS first_seq, g.goal_id, g.owner
)
INSERT INTO outbox (goal, first_seq, at, events)
SELECT n.num, n.first_seq, $4, c.events::jsonb FROM numbered n JOIN commits c ON c.goal = n.num ORDER BY n.num
RETURNING id, goal, first_seq
