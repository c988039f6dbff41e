-- Hold money for one call, if it fits the budget: no row means that it does not. $1 goal, $2 amount
UPDATE goal SET held = held + $2 WHERE num = $1 AND spent + held + $2 <= budget RETURNING num
