# attack: the classic bomb of the shell, which leaves its children behind
# expect: timeout | exit 2 | ok
# seconds: 2
bomb() { bomb | bomb & }
bomb
sleep 30
