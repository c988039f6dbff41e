# attack: sockets of the machine in the file system and in the abstract name space
# expect: ok
import socket, sys

paths = ("\0" + sys.argv[1], "/var/run/docker.sock", "/run/dbus/system_bus_socket", "/run/systemd/private")
for path in paths:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        print("ESCAPED: reached", repr(path))
    except OSError:
        pass
