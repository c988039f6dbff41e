# attack: starts threads without end
# expect: ok
import os, threading, time

n = 0
try:
    while n < 500:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        n += 1
except RuntimeError:
    pass
if n > 40:
    print("ESCAPED: holds", n, "threads")
os._exit(0)
