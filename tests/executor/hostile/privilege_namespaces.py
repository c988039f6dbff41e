# attack: makes name spaces and mounts of its own
# expect: ok
import ctypes

libc = ctypes.CDLL(None, use_errno=True)
for flag in (0x10000000, 0x00020000, 0x40000000, 0x20000000, 0x02000000, 0x08000000, 0x04000000):
    if libc.unshare(flag) == 0:
        print("ESCAPED: unshare", hex(flag))
    if libc.clone(0, None, flag | 17, None) > 0:
        print("ESCAPED: clone", hex(flag))
for target in (b"/tmp", b"/job", b"/"):
    if libc.mount(b"none", target, b"tmpfs", 0, None) == 0:
        print("ESCAPED: mount", target)
    if libc.umount2(target, 2) == 0:
        print("ESCAPED: umount", target)
if libc.chroot(b"/tmp") == 0:
    print("ESCAPED: chroot")
