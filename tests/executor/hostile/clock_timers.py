# attack: real-time priority, and its CPU to itself
# expect: ok
import os

for policy in (os.SCHED_FIFO, os.SCHED_RR):
    try:
        os.sched_setscheduler(0, policy, os.sched_param(50))
        print("ESCAPED: real time")
    except OSError:
        pass
try:
    os.nice(-5)
    print("ESCAPED: a better place in the queue")
except OSError:
    pass
