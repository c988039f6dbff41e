# attack: a hard link to a file that it may not read
# expect: missing_output
# outputs: x:text
import os

for path in ("/etc/shadow", "/etc/passwd", "/proc/1/environ", "/usr/bin/env"):
    try:
        os.link(path, "out/x")
        print("ESCAPED: linked", path)
    except OSError:
        pass
