# attack: raw sockets, packets and kernel messages
# expect: ok
import socket

for family, kind in ((socket.AF_INET, socket.SOCK_RAW), (socket.AF_PACKET, socket.SOCK_RAW)):
    try:
        socket.socket(family, kind, socket.IPPROTO_ICMP)
        print("ESCAPED: a raw socket", family)
    except OSError:
        pass
names = [name for _, name in socket.if_nameindex()]
if set(names) - {"lo", "tunl0", "sit0", "ip6tnl0", "gre0", "erspan0", "gretap0", "ip_vti0", "ip6_vti0", "ip6gre0"}:
    print("ESCAPED: interfaces", names)
