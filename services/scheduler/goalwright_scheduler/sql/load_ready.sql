-- The best ready tasks of lanes in goals that may run, in turns of the goals, so that no large goal hides a small one.
-- `turn` is a task's place in its goal and lane. $1 lanes (null: all), $2 how many of each
SELECT id, goal, lane, rank, turn FROM (
    SELECT *, row_number() OVER (PARTITION BY lane ORDER BY turn) AS place FROM (
        SELECT t.id, t.goal, t.lane, t.rank,
               row_number() OVER (PARTITION BY t.lane, t.goal ORDER BY t.rank DESC) AS turn
        FROM goal g JOIN task t ON t.goal = g.num
        WHERE g.finished_at IS NULL AND g.status IN ('accepted', 'planning', 'running') AND t.state = 'ready'
          AND ($1::text[] IS NULL OR t.lane = ANY($1))
    ) AS ranked WHERE turn <= $2
) AS ready WHERE place <= $2
