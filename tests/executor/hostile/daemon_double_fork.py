# attack: a daemon that outlives its program
# expect: ok
import os, time

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "1000"])
    os._exit(0)
time.sleep(0.2)
