"""What is said where no engine, or no image, can be had; what an engine does not bound; what is asked of it."""

from __future__ import annotations

import pytest
from goalwright_executor.sandbox.engine import Bounds, gaps, leftovers, no_engine, no_image

SOCKET = "unix:///var/run/docker.sock"
MISSING = "FileNotFoundError(2, 'No such file or directory')"
DENIED = "PermissionError(13, 'Permission denied')"
STRONG = {
    "MemoryLimit": True, "SwapLimit": True, "PidsLimit": True, "CpuCfsQuota": True,
    "SecurityOptions": ["name=seccomp,profile=default"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("said", "host", "system", "is_container", "fix"),
    [
        (DENIED, SOCKET, "linux", False, "sudo usermod -aG docker $USER"),
        (DENIED, SOCKET, "linux", True, "--group-add $(stat -c %g /var/run/docker.sock)"),
        (MISSING, SOCKET, "linux", True, "-v /var/run/docker.sock:/var/run/docker.sock"),
        (MISSING, SOCKET, "linux", False, "sudo systemctl start docker"),
        (MISSING, SOCKET, "darwin", False, "start Docker Desktop or colima"),
        ("refused", "tcp://far:2376", "linux", False, "start it there, or correct DOCKER_HOST"),
        ("Install paramiko", "ssh://me@far", "linux", False, ":/var/run/docker.sock me@far`"),
    ],
)
def test_the_fix_for_a_missing_engine_is_the_one_for_this_machine(
    said: str, host: str, system: str, is_container: bool, fix: str
) -> None:
    assert fix in no_engine(said, host, system, is_container=is_container)


@pytest.mark.parametrize(
    ("image", "fix"),
    [
        ("goalwright-programs:latest", "docker build -t goalwright-programs:latest -f deploy/programs"),
        ("far.example/programs@sha256:00ff", "docker pull far.example/programs@sha256:00ff"),
        ("sha256:00ff", "docker load"),
    ],
)
def test_the_fix_for_a_missing_image_is_the_one_for_its_name(image: str, fix: str) -> None:
    assert fix in no_image(image)


@pytest.mark.parametrize(
    ("told", "word"),
    [
        ({}, None),
        ({"MemoryLimit": False}, "memory"),
        ({"SwapLimit": False}, "swap"),
        ({"PidsLimit": False}, "processes"),
        ({"CpuCfsQuota": False}, "CPU"),
        ({"SecurityOptions": None}, "system calls"),
    ],
)
def test_what_an_engine_ignores_is_told_as_lacking(told: dict[str, object], word: str | None) -> None:
    found = gaps(STRONG | told)
    assert len(found) == (0 if word is None else 1)
    assert all(word in one for one in found if word)


def test_no_folder_of_ours_is_mounted_and_every_bound_is_asked_for() -> None:
    asked = Bounds(memory_bytes=100 << 20, processes=7, disk_bytes=5, room_bytes=1 << 20).host_config()
    assert not {"Binds", "Mounts", "VolumesFrom", "Devices", "PortBindings", "Privileged"} & set(asked)
    assert asked["NetworkMode"] == "none"
    assert (asked["CapDrop"], asked["ReadonlyRootfs"]) == (["ALL"], True)
    assert asked["Memory"] == asked["MemorySwap"] == 101 << 20
    assert asked["PidsLimit"] == 7 + 5
    assert {path: options.split(",")[0] for path, options in asked["Tmpfs"].items()} == {
        "/job": f"size={5 + (1 << 20)}",
        "/tmp": "size=5",
    }
    assert "no-new-privileges" in asked["SecurityOpt"]
    assert any(option.startswith("seccomp={") for option in asked["SecurityOpt"])


def test_what_nobody_will_remove_is_past_its_deadline_or_had_ended_a_sweep_ago() -> None:
    def container(name: str, state: str, deadline: int) -> dict[str, object]:
        return {"Id": name, "State": state, "Labels": {"goalwright.program.deadline": str(deadline)}}

    found = [
        container("runs", "running", 200),
        container("late", "running", 99),
        container("just ended", "exited", 200),
        container("ended long ago", "exited", 200),
    ]
    left, ended = leftovers(found, 100, frozenset({"ended long ago", "runs"}))
    assert left == {"late", "ended long ago"}
    assert ended == {"just ended", "ended long ago"}
