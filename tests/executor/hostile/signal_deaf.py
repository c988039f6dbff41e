# attack: ignores every signal it can and sleeps past its time, with children in groups of their own
# expect: timeout
# seconds: 1
import os, signal, time

for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        break
while True:
    time.sleep(100)
