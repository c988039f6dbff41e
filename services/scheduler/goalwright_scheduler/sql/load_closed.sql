-- Goals whose closing summary is written, or cannot be
SELECT g.num, g.reason FROM goal g JOIN task t ON t.id = g.closing
WHERE g.finished_at IS NULL AND g.closing IS NOT NULL AND t.state IN ('succeeded', 'dead', 'cancelled', 'skipped')
