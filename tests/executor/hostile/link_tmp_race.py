# attack: swaps an output between a file and a link while it is taken
# expect: ok | refused_output | missing_output
# outputs: x:text
import os

if os.fork() == 0:
    os.setsid()
    while True:
        for make in (lambda: open("out/y", "w").close(), lambda: os.symlink("/etc/passwd", "out/y")):
            try:
                make()
                os.rename("out/y", "out/x")
            except OSError:
                pass
