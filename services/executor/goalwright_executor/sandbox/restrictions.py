"""What keeps a machine from isolating with user namespaces, and the fix for each of it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Restrictions:
    """What may keep a machine from isolating with user namespaces."""

    is_root: bool = False
    is_container: bool = False
    apparmor: bool = False  # user namespaces only for files with a profile, as on Ubuntu since 23.10
    only_root: bool = False  # Debian's switch
    most_namespaces: int | None = None  # of users, on the whole machine

    @classmethod
    def here(cls) -> Restrictions:
        """Of this process on this machine."""
        most = _setting("user/max_user_namespaces")
        return cls(
            is_root=os.geteuid() == 0,
            is_container=is_container(),
            apparmor=_setting("kernel/apparmor_restrict_unprivileged_userns") == "1",
            only_root=_setting("kernel/unprivileged_userns_clone") == "0",
            most_namespaces=int(most) if most else None,
        )


def is_container() -> bool:
    """Whether this process runs in a container, as far as its engine tells."""
    marked = any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))
    return marked or "KUBERNETES_SERVICE_HOST" in os.environ


def _setting(name: str) -> str | None:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return None


def advice(bwrap: Path, problem: str, found: Restrictions) -> str:
    """The problem of one bubblewrap, with the fix for this machine."""
    said = f"{bwrap}: {problem.rstrip('.')}"
    if "No space left" in problem or (found.most_namespaces == 0 and not found.is_root):
        return f"{said}. User namespaces are switched off; allow some: sudo sysctl -w user.max_user_namespaces=15000"
    if not any(word in problem for word in ("ermission denied", "not permitted", "No permissions")):
        return f"{said} ({platform.platform()})"
    if found.is_container:
        return (
            f"{said}. In a container use GOALWRIGHT_SANDBOX=docker with the engine's socket, or start it as a plain "
            "user with --security-opt seccomp=unconfined --security-opt systempaths=unconfined"
        )
    if found.only_root and not found.is_root:
        return f"{said}. Allow user namespaces: sudo sysctl -w kernel.unprivileged_userns_clone=1"
    if found.apparmor and not found.is_root:
        return (
            f"{said}. AppArmor restricts user namespaces; allow this file with\n"
            f"printf 'abi <abi/4.0>,\\ninclude <tunables/global>\\nprofile goalwright-bwrap {bwrap} "
            "flags=(unconfined) {\\n  userns,\\n}\\n' | sudo tee /etc/apparmor.d/goalwright-bwrap && "
            "sudo apparmor_parser -r /etc/apparmor.d/goalwright-bwrap"
        )
    return f"{said}. A security module of {platform.platform()} forbids it: use GOALWRIGHT_SANDBOX=docker"
