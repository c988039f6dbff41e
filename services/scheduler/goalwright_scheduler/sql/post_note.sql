-- Put a performer's line on the blackboard, unless it stands there; the oldest make room.
-- $1 goal, $2 lane, $3 key, $4 text, $5 at, $6 how many are kept
WITH gone AS (
    DELETE FROM note WHERE id IN (
        SELECT id FROM note WHERE goal = $1 AND NOT pinned AND signal_id IS NULL
        ORDER BY id DESC OFFSET greatest($6::int - 1, 0)
    )
)
INSERT INTO note (goal, author, key, text, at)
SELECT $1, $2::text, $3::text, $4::text, $5::timestamptz
WHERE NOT EXISTS (SELECT FROM note WHERE goal = $1 AND NOT pinned AND text = $4)
RETURNING id
