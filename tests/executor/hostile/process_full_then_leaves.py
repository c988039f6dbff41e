# attack: exits 0 with its process limit used up, so that nobody inside can start another
# expect: ok
# outputs: x:text
import os, time

open("out/x", "w").write("kept")
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
except OSError:
    pass
