"""What is said where user namespaces cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest
from goalwright_executor.sandbox.restrictions import Restrictions, advice

BWRAP = Path("/opt/bwrap")
DENIED = "bubblewrap ended with 1: bwrap: setting up uid map: Permission denied"
REFUSED = "bubblewrap ended with 1: bwrap: No permissions to create new namespace"
FULL = "bubblewrap ended with 1: bwrap: Creating new namespace failed: No space left on device"
MOUNT = "bubblewrap ended with 1: bwrap: Can't mount proc on /newroot/proc: Operation not permitted"


@pytest.mark.parametrize(
    ("problem", "found", "fix"),
    [
        (FULL, Restrictions(), "sysctl -w user.max_user_namespaces="),
        (REFUSED, Restrictions(most_namespaces=0), "sysctl -w user.max_user_namespaces="),
        (REFUSED, Restrictions(only_root=True), "sysctl -w kernel.unprivileged_userns_clone=1"),
        (DENIED, Restrictions(apparmor=True), "/etc/apparmor.d/goalwright-bwrap"),
        (DENIED, Restrictions(apparmor=True), "profile goalwright-bwrap /opt/bwrap "),
        (MOUNT, Restrictions(is_container=True, is_root=True), "--security-opt systempaths=unconfined"),
        (
            REFUSED,
            Restrictions(apparmor=True, is_container=True),
            "GOALWRIGHT_SANDBOX=docker with the engine",
        ),
        (REFUSED, Restrictions(), "forbids it: use GOALWRIGHT_SANDBOX=docker"),
    ],
)
def test_the_fix_is_the_one_for_this_machine(problem: str, found: Restrictions, fix: str) -> None:
    said = advice(BWRAP, problem, found)
    assert fix in said
    assert said.startswith(f"/opt/bwrap: {problem}. ")


def test_a_switch_that_has_nothing_to_do_with_the_problem_is_not_blamed() -> None:
    problem = "it does not isolate: a program reached the network"
    said = advice(BWRAP, problem, Restrictions(apparmor=True, only_root=True, is_container=True))
    assert "sysctl" not in said
    assert "apparmor" not in said
    assert problem in said
