# attack: memory of the kernel in semaphores and message queues of System V, and its places for asynchronous input
# expect: ok
import ctypes
import platform

libc = ctypes.CDLL(None)
held = sum(libc.semget(0, 32_000, 0o1600) >= 0 for _ in range(100))
queues = sum(libc.msgget(0, 0o1600) >= 0 for _ in range(100))
if held or queues:
    print("ESCAPED:", held, "sets of 32,000 semaphores,", queues, "queues")
context = ctypes.c_ulong()
number = {"x86_64": 206, "aarch64": 0}[platform.machine()]
if libc.syscall(ctypes.c_long(number), 10_000, ctypes.byref(context)) == 0:
    print("ESCAPED: places that the whole machine shares")
