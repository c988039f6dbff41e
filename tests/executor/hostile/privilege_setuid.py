# attack: becomes root by system calls, by a setuid copy and by su
# expect: ok
import os

for call in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]), lambda: os.chown("out", 0, 0)):
    try:
        call()
        print("ESCAPED: a call worked")
    except OSError:
        pass
os.system("cp /usr/bin/id /tmp/id && chmod 4755 /tmp/id")
if "euid=0" in os.popen("/tmp/id").read():
    print("ESCAPED: setuid")
if os.popen("su -c id root </dev/null 2>/dev/null").read():
    print("ESCAPED: su")
