-- Keep what lanes have taught. $1 lanes, then for cost: $2 tasks, $3 estimated, $4 actual; for seconds: $5, $6, $7
INSERT INTO lane_calibration (lane, cost_tasks, cost_estimated, cost_actual,
                              seconds_tasks, seconds_estimated, seconds_actual)
SELECT * FROM unnest($1::text[], $2::float8[], $3::float8[], $4::float8[], $5::float8[], $6::float8[], $7::float8[])
ON CONFLICT (lane) DO UPDATE
SET cost_tasks = excluded.cost_tasks, cost_estimated = excluded.cost_estimated,
    cost_actual = excluded.cost_actual, seconds_tasks = excluded.seconds_tasks,
    seconds_estimated = excluded.seconds_estimated, seconds_actual = excluded.seconds_actual
