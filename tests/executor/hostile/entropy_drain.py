# attack: takes random bytes without end, and gives the kernel false ones
# expect: timeout
# seconds: 2
import fcntl, os, struct

try:
    with open("/dev/urandom", "wb", buffering=0) as file:
        fcntl.ioctl(file, 0x40085203, struct.pack("ii4s", 32, 4, b"abcd"))
        print("ESCAPED: credited entropy", flush=True)
except OSError:
    pass
while True:
    os.getrandom(1 << 20)
