-- Hold money for one call, if it fits what the goal may spend, without what is kept for its summary, and what its
-- owner may spend: no row means that it does not. $1 goal, $2 amount
UPDATE goal g SET held = g.held + $2
WHERE g.num = $1 AND g.spent + g.held + $2 <= g.budget - g.fenced
  AND NOT EXISTS (
      SELECT FROM account a
      WHERE a.owner = g.owner AND a.budget < a.held + $2 +
            CASE WHEN a.per = 'day' AND a.since < date_trunc('day', goalwright_clock(), 'UTC') THEN 0 ELSE a.spent END
  )
RETURNING g.num
