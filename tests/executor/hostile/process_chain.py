# attack: every process forks one and ends, so that no list of processes is ever up to date
# expect: timeout | ok
# seconds: 2
import os

while True:
    try:
        if os.fork():
            os._exit(0)
    except OSError:
        pass
