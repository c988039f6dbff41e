# attack: looks for a capability, a privilege or a missing filter
# expect: ok
lines = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines() if ":" in line)
for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
    if int(lines[name], 16):
        print("ESCAPED:", name, lines[name])
if lines["NoNewPrivs"].strip() != "1":
    print("ESCAPED: may gain privileges")
if lines["Seccomp"].strip() != "2":
    print("ESCAPED: no filter of system calls")
