-- Give the lead back at once, so that a standby need not wait. $1 term, $2 holder
UPDATE leader SET until = goalwright_clock() WHERE term = $1 AND holder = $2
