# attack: counts how many processes it can hold
# expect: ok
import os, time

n = 0
try:
    while n < 500:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        n += 1
except OSError:
    pass
if n > 40:
    print("ESCAPED: holds", n, "processes")
