# attack: reads what /proc tells of processes that are not its own
# expect: ok
import os

pids = [name for name in os.listdir("/proc") if name.isdigit()]
if len(pids) > 8:
    print("ESCAPED: sees", len(pids), "processes")
for pid in pids:
    for name in ("environ", "cmdline", "root/etc/shadow", "cwd/goalwright"):
        try:
            data = open(f"/proc/{pid}/{name}", "rb").read()
        except OSError:
            continue
        if b"GOALWRIGHT" in data or b"OPENAI" in data or (name.startswith("root") and b"root:" in data):
            print("ESCAPED:", pid, name)
