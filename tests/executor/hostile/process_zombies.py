# attack: leaves dead children unreaped until there is no room
# expect: ok
import os

n = 0
try:
    while n < 500:
        if os.fork() == 0:
            os._exit(0)
        n += 1
except OSError:
    pass
if n > 40:
    print("ESCAPED:", n, "zombies")
