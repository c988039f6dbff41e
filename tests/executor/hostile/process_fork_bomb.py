# attack: forks without end, in every child too
# expect: timeout
# seconds: 2
import os

while True:
    try:
        os.fork()
    except OSError:
        pass
