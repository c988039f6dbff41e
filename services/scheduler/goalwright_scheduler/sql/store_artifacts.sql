-- Give names to values. $1 goals, $2 scopes, $3 generations, $4 names, $5 tasks, $6 refs
INSERT INTO artifact (goal, scope, generation, name, task, ref)
SELECT a.goal, a.scope, a.generation, a.name, a.task, a.ref::jsonb
FROM unnest($1::bigint[], $2::bigint[], $3::int[], $4::text[], $5::bigint[], $6::text[])
     AS a(goal, scope, generation, name, task, ref)
ON CONFLICT (goal, scope, generation, name) DO UPDATE SET task = excluded.task, ref = excluded.ref
