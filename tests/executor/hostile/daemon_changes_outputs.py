# attack: a daemon goes on writing to an output that is being taken
# expect: ok
# outputs: x:file
import os

open("out/x", "w").write("before")
if os.fork() == 0:
    os.setsid()
    while True:
        open("out/x", "a").write("after")
