-- Keep what became of each try; a try is recorded once.
-- $1 tasks, $2 epochs, $3 kinds, $4 now, $5 seconds, $6 summaries, $7 errors, $8 calls, $9 programs, $10 checks,
-- $11 workers
INSERT INTO task_result (task, epoch, kind, at, seconds, summary, error, call, program, checks, worker)
SELECT r.task, r.epoch, r.kind, $4, r.seconds, r.summary, r.error::jsonb, r.call::jsonb, r.program::jsonb,
       r.checks::jsonb, r.worker
FROM unnest($1::bigint[], $2::int[], $3::text[], $5::float8[], $6::text[], $7::text[], $8::text[], $9::text[],
            $10::text[], $11::text[])
     AS r(task, epoch, kind, seconds, summary, error, call, program, checks, worker)
ON CONFLICT (task, epoch) DO UPDATE
SET kind = excluded.kind, summary = excluded.summary, error = coalesce(excluded.error, task_result.error),
    call = coalesce(excluded.call, task_result.call), program = coalesce(excluded.program, task_result.program),
    checks = coalesce(excluded.checks, task_result.checks), worker = coalesce(excluded.worker, task_result.worker)
