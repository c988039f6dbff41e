# attack: makes devices of the machine's disk and memory
# expect: missing_output
# outputs: x:file
import os

for place in ("out/x", "/tmp/x", "/dev/x", "/dev/shm/x"):
    for major, minor in ((1, 1), (1, 3), (8, 0), (253, 0)):
        try:
            os.mknod(place, 0o660 | 0o60000, os.makedev(major, minor))
            print("ESCAPED: made a device", place)
        except OSError:
            pass
