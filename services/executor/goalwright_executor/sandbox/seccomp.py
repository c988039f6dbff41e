"""System calls that no program needs and that widen the kernel's surface: a raw BPF filter (seccomp(2)), and
the same as a profile of container engines.

A deny list by hand, because libseccomp would be a system package: the rest of the isolation does not rest
on it. Numbers are from the kernel's tables for x86_64 and the generic table (aarch64).
"""

from __future__ import annotations

import errno
import functools
import json
import os
import platform
import struct

_LOAD, _JUMP_EQ, _JUMP_GE, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NR, _ARCH, _ARG0_LOW = 0, 4, 16  # offsets in struct seccomp_data (little endian)
_X32 = 0x40000000
_NAMESPACES = 0x7E020000  # every CLONE_NEW* flag that clone takes

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
_SOCKET = {"x86_64": 41, "aarch64": 198}

_FAMILIES = {"unix": 1, "inet": 2, "inet6": 10, "netlink": 16}
"""Sockets that a network namespace of its own contains. Others lead out of it (vsock reaches the host of a virtual
machine) or only into the kernel."""

_LAST_FAMILY = 45
"""Of those that Linux has."""

_DENIED = {  # name: (x86_64, aarch64)
    "ptrace": (101, 117), "syslog": (103, 116), "personality": (135, 92), "pivot_root": (155, 41),
    "chroot": (161, 51), "acct": (163, 89), "mount": (165, 40), "umount2": (166, 39), "swapon": (167, 224),
    "swapoff": (168, 225), "reboot": (169, 142), "init_module": (175, 105), "delete_module": (176, 106),
    "quotactl": (179, 60), "lookup_dcookie": (212, 18), "mbind": (237, 235), "set_mempolicy": (238, 237),
    "kexec_load": (246, 104), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "migrate_pages": (256, 238), "unshare": (272, 97), "move_pages": (279, 239),
    "perf_event_open": (298, 241), "fanotify_init": (300, 262), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "setns": (308, 268), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "kcmp": (312, 272), "finit_module": (313, 273),
    "kexec_file_load": (320, 294), "bpf": (321, 280), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    "mount_setattr": (442, 442),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194),  # memory that nobody maps
    "semget": (64, 190), "msgget": (68, 186),  # the same, of the kernel's own
    "io_setup": (206, 0),  # taken from a number that the whole machine shares
    "quotactl_fd": (443, 443),
}  # fmt: skip


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


@functools.cache
def program(machine: str | None = None) -> bytes | None:
    """The filter for `machine` (default this one); None where the numbers are not known."""
    machine = machine or platform.machine()
    if machine not in _AUDIT_ARCH:
        return None
    column = 0 if machine == "x86_64" else 1
    refuse = _instruction(_RETURN, _ERRNO | errno.EPERM)
    lines = [
        _instruction(_LOAD, _ARCH),
        _instruction(_JUMP_EQ, _AUDIT_ARCH[machine], 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NR),
    ]
    if machine == "x86_64":
        lines += [_instruction(_JUMP_GE, _X32, 0, 1), refuse]
    # the flags of clone3 lie behind a pointer that no filter can read: without it, libc falls back to clone
    lines += [_instruction(_JUMP_EQ, _CLONE3, 0, 1), _instruction(_RETURN, _ERRNO | errno.ENOSYS)]
    for numbers in _DENIED.values():
        lines += [_instruction(_JUMP_EQ, numbers[column], 0, 1), refuse]
    lines += [
        _instruction(_JUMP_EQ, _SOCKET[machine], 0, 1 + len(_FAMILIES) + 2),
        _instruction(_LOAD, _ARG0_LOW),
        *(
            _instruction(_JUMP_EQ, family, len(_FAMILIES) - at, 0)
            for at, family in enumerate(_FAMILIES.values())
        ),
        _instruction(_RETURN, _ERRNO | errno.EAFNOSUPPORT),
        _instruction(_RETURN, _ALLOW),
        _instruction(_JUMP_EQ, _CLONE[machine], 0, 3),
        _instruction(_LOAD, _ARG0_LOW),
        _instruction(_JUMP_SET, _NAMESPACES, 0, 1),
        refuse,
        _instruction(_RETURN, _ALLOW),
    ]
    return b"".join(lines)


def profile() -> str:
    """The same list as a profile of container engines, whose own default differs from version to version."""
    refused = [{"names": sorted(_DENIED), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM}]
    refused += [{"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS}]
    for bit in (1 << n for n in range(32) if _NAMESPACES >> n & 1):
        flag = {"index": 0, "value": bit, "valueTwo": bit, "op": "SCMP_CMP_MASKED_EQ"}
        refused += [{"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM, "args": [flag]}]
    other = {*range(_LAST_FAMILY + 1)} - {*_FAMILIES.values()}
    families = [{"index": 0, "value": family, "op": "SCMP_CMP_EQ"} for family in sorted(other)]
    families += [
        {"index": 0, "value": _LAST_FAMILY, "op": "SCMP_CMP_GT"}
    ]  # and what has bits that the kernel drops
    refused += [
        {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EAFNOSUPPORT, "args": [family]}
        for family in families
    ]
    return json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": refused})


def descriptor() -> int | None:
    """An inheritable file descriptor that holds the filter, for `bwrap --seccomp`; the caller closes it."""
    filter = program()
    if filter is None:
        return None
    fd = os.memfd_create("seccomp")
    os.write(fd, filter)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
