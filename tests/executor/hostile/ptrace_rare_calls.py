# attack: system calls with a history of exploits
# expect: ok
import ctypes, platform

libc = ctypes.CDLL(None, use_errno=True)
x86 = platform.machine() == "x86_64"
calls = {
    "bpf": (321, 280), "keyctl": (250, 219), "userfaultfd": (323, 282), "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425), "open_by_handle_at": (304, 265), "kexec_load": (246, 104),
    "init_module": (175, 105), "pidfd_getfd": (438, 438), "add_key": (248, 217),
}
for name, numbers in calls.items():
    ctypes.set_errno(0)
    libc.syscall(numbers[0 if x86 else 1], 16, 1, 0, 0, 0)
    if ctypes.get_errno() != 1:
        print("ESCAPED:", name, ctypes.get_errno())
