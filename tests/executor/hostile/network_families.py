# attack: sockets that no network namespace contains: vsock to the host of a virtual machine, the kernel's own
# expect: ok
import ctypes
import socket

FAMILIES = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}
for family in set(range(64)) - FAMILIES:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        try:
            socket.socket(family, kind).close()
            print("ESCAPED: a socket of family", family)
        except OSError:
            pass
libc = ctypes.CDLL(None)
number = {"x86_64": 41, "aarch64": 198}[__import__("platform").machine()]
for disguised in (40 | 1 << 32, 40 | 1 << 63):  # the kernel looks at the lower half of a register
    if libc.syscall(ctypes.c_long(number), ctypes.c_ulong(disguised), 1, 0) >= 0:
        print("ESCAPED: vsock in disguise")
for family in FAMILIES - {socket.AF_NETLINK}:
    socket.socket(family, socket.SOCK_DGRAM).close()
left, right = socket.socketpair()
left.send(b"fine")
assert right.recv(4) == b"fine"
