-- The open tasks of a goal's plan as admission sees them: estimates, what each has cost so far (open holds count),
-- and its dependants among them. $1 the goal's root task
SELECT t.id, t.lane, t.state, t.epoch, t.children, t.over_budget, s.inputs, s.outputs, s.value,
       coalesce((s.spec #>> '{effort,tokens_in}')::float8, 0) AS tokens_in,
       coalesce((s.spec #>> '{effort,tokens_out}')::float8, 0) AS tokens_out,
       (s.spec #>> '{prompt,max_output_tokens}')::int AS output_cap,
       coalesce((s.spec ->> 'confidence')::float8, 1) AS confidence,
       coalesce((s.spec ->> 'max_failures')::int, 1) AS max_failures,
       coalesce(l.paid, 0)::bigint AS paid
FROM task p
JOIN task t ON t.parent = p.id AND t.generation = p.expansions
JOIN task_spec s ON s.id = t.id
LEFT JOIN LATERAL (
    SELECT sum(CASE WHEN settled_at IS NULL THEN hold ELSE charged + overrun END) AS paid
    FROM ledger WHERE task = t.id
) AS l ON t.epoch > 0
WHERE p.id = $1 AND t.state NOT IN ('succeeded', 'dead', 'cancelled', 'skipped')
ORDER BY t.id
