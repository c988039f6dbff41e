# attack: kills whoever it can name
# expect: signal 9 | ok | exit 137
import os

for pid in range(2, 70_000):
    if pid not in (os.getpid(), os.getppid()):
        try:
            os.kill(pid, 9)
        except OSError:
            pass
try:
    os.kill(-1, 9)
except OSError:
    pass
