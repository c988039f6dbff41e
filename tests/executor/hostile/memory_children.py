# attack: each of many children stays below the limit, all together do not
# expect: out_of_memory
import os, time

for _ in range(8):
    if os.fork() == 0:
        kept = os.urandom(1 << 20) * 80
        time.sleep(30)
time.sleep(5)
