-- Open the bills of paid dispatches. $1 ids, $2 now
INSERT INTO ledger (task, epoch, goal, hold, at)
SELECT id, epoch, goal, hold, $2 FROM task WHERE id = ANY($1::bigint[])
