# attack: kills the shell around it and the first process
# expect: not ok
# seconds: 2
import os, time

os.kill(os.getppid(), 9)
try:
    os.kill(1, 9)
except OSError:
    pass
time.sleep(30)
