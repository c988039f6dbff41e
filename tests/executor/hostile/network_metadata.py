# attack: asks the cloud's metadata service for credentials, and a name server for anything
# expect: ok
import socket

for host in ("169.254.169.254", "fd00:ec2::254", "metadata.google.internal"):
    try:
        socket.create_connection((host, 80), timeout=1)
        print("ESCAPED: reached", host)
    except OSError:
        pass
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    try:
        probe.sendto(b"x", ("169.254.169.253", 53))
        print("ESCAPED: sent a datagram")
    except OSError:
        pass
