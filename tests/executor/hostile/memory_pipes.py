# attack: memory in the buffers of pipes and sockets
# needs: groups
# expect: ok | out_of_memory | exit 1
import fcntl, os, socket

n, kept = 0, []
try:
    while True:
        a, b = socket.socketpair()
        a.setblocking(False)
        a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)
        kept += [a, b]
        try:
            while True:
                n += a.send(b"x" * 65536)
        except BlockingIOError:
            pass
except OSError:
    pass
if n > 512 << 20:
    print("ESCAPED:", n >> 20, "MB in buffers")
