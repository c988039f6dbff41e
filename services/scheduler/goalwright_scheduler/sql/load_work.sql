-- What the Work of dispatched tasks holds, for sending it again. $1 ids
WITH sent AS (SELECT * FROM task WHERE id = ANY($1::bigint[]))
