# attack: a daemon keeps the program's stdout open, so that a reader waits for its end
# expect: ok
import os, signal, time

if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    while True:
        time.sleep(100)
