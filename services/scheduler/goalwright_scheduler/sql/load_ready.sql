-- The best ready tasks of lanes, in goals that may run. $1 lanes (null: all), $2 how many of each
SELECT id, goal, lane, rank FROM (
    SELECT t.id, t.goal, t.lane, t.rank, row_number() OVER (PARTITION BY t.lane ORDER BY t.rank DESC) AS place
    FROM goal g JOIN task t ON t.goal = g.num
    WHERE g.finished_at IS NULL AND g.status IN ('accepted', 'planning', 'running') AND t.state = 'ready'
      AND ($1::text[] IS NULL OR t.lane = ANY($1))
) AS ready WHERE place <= $2
