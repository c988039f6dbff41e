# attack: writes wherever it can outside of its two folders
# expect: ok
import os

places = ("/", "/usr", "/usr/bin", "/etc", "/opt", "/dev", "/var/tmp", "/run", "/proc/sys", "/sys", "/job/in", "/lib")
for place in places:
    try:
        open(f"{place}/goalwright-was-here", "w").close()
        print("ESCAPED: wrote to", place)
    except OSError:
        pass
for path in ("main.py", "/job/main.py"):
    try:
        open(path, "a").close()
        print("ESCAPED: changed", path)
    except OSError:
        pass
