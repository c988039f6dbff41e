# attack: changes settings of the kernel by /proc and /sys
# expect: ok
import glob

paths = (
    "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger",
    "/proc/sys/vm/overcommit_memory", "/sys/kernel/uevent_helper", "/sys/power/state", "/proc/1/oom_score_adj",
    *glob.glob("/sys/fs/cgroup/*.max"), *glob.glob("/sys/fs/cgroup/*/*limit_in_bytes"),
)
for path in paths:
    try:
        with open(path, "r+b", buffering=0) as file:
            now = file.read(4096)
            file.seek(0)
            file.write(now or b"0")
        if path != "/proc/1/oom_score_adj":
            print("ESCAPED: wrote", path)
    except OSError:
        pass
