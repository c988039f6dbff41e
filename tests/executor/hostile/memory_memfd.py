# attack: memory in an anonymous file, which no process holds as its own
# expect: ok | out_of_memory | exit 1
import os

fd, n = os.memfd_create("x"), 0
while n < 1024:
    n += os.write(fd, b"x" * (1 << 20)) >> 20
print("ESCAPED:", n, "MB outside of every limit")
