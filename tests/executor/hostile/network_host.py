# attack: talks to a server of the machine by all its names
# expect: ok
import socket, sys

hosts = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "172.17.0.1", "host.docker.internal")
for host in hosts:
    try:
        socket.create_connection((host, int(sys.argv[2])), timeout=1)
        print("ESCAPED: reached", host)
    except OSError:
        pass
