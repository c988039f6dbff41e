# attack: stops itself, so that it never ends
# expect: timeout
# seconds: 1
import os, signal

os.kill(os.getpid(), signal.SIGSTOP)
