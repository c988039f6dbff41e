# attack: sets the clock of the machine
# expect: ok
import ctypes, time

try:
    time.clock_settime(time.CLOCK_REALTIME, 0)
    print("ESCAPED: clock_settime")
except OSError:
    pass
libc = ctypes.CDLL(None, use_errno=True)
if libc.settimeofday((ctypes.c_long * 2)(0, 0), None) == 0:
    print("ESCAPED: settimeofday")
