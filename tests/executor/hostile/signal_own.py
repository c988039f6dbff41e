# attack: ends itself by a signal that looks like the sandbox's
# expect: signal 9
import os

os.kill(os.getpid(), 9)
