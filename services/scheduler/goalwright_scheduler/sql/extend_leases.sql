-- Performers announced these tasks: their leases run anew. $1 ids, $2 epochs, $3 leases in seconds, $4 now
UPDATE task t
SET announced = true, due_at = $4::timestamptz + a.lease * interval '1 second'
FROM unnest($1::bigint[], $2::int[], $3::float8[]) AS a(id, epoch, lease)
WHERE t.id = a.id AND t.epoch = a.epoch AND t.state = 'dispatched'
