# attack: writes to files that it has already deleted
# expect: disk_limit
import os

kept = []
while True:
    file = open("x", "wb")
    os.unlink("x")
    kept.append(file)
    file.write(b"x" * (1 << 20))
    file.flush()
