# attack: reads what belongs to the machine and to others
# expect: ok
import os

for path in ("/etc/shadow", "/etc/passwd-", "/root/.bashrc", "/proc/kcore", "/dev/mem", "/dev/kmsg", "/dev/sda"):
    try:
        open(path, "rb").read(1)
        print("ESCAPED: read", path)
    except OSError:
        pass
for folder in ("/home", "/root", "/var/lib/docker", "/var/run", "/mnt"):
    try:
        found = [name for name in os.listdir(folder) if name not in ("lock", "secrets")]
    except OSError:
        continue
    if any(os.path.isfile(f"{folder}/{name}") for name in found):
        print("ESCAPED: files in", folder, found)
