-- Dispatch ready tasks of goals that may run: a new epoch, a lease, a hold; and read what their Work holds.
-- A task that is not among the rows was a lost race. $1 ids, $2 holds, $3 leases in seconds, $4 now
WITH sent AS (
    UPDATE task t
    SET state = 'dispatched', epoch = t.epoch + 1, hold = chosen.hold, announced = false,
        dispatched_at = $4, due_at = $4::timestamptz + chosen.lease * interval '1 second'
    FROM unnest($1::bigint[], $2::bigint[], $3::float8[]) AS chosen(id, hold, lease)
    WHERE t.id = chosen.id AND t.state = 'ready'
      AND EXISTS (SELECT FROM goal g WHERE g.num = t.goal AND g.status IN ('accepted', 'planning', 'running'))
    RETURNING t.*
)
