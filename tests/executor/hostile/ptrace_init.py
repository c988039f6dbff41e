# attack: traces and reads the memory of the processes around it
# expect: ok
import ctypes, os

libc = ctypes.CDLL(None, use_errno=True)
for pid in (1, os.getppid()):
    if libc.ptrace(16, pid, None, None) == 0:
        print("ESCAPED: ptrace", pid)
    if libc.process_vm_readv(pid, None, 0, None, 0, 0) >= 0:
        print("ESCAPED: process_vm_readv", pid)
