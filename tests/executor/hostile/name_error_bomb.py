# attack: an error message of megabytes on one line
# expect: exit 1
raise SystemExit("x" * 900_000)
