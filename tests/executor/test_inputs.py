"""What programs read is kept on the executor, verified, shared and bounded; nothing of any size fills its memory."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from goalwright_executor.inputs import Inputs
from goalwright_shared.errors import ArtifactUnavailable
from goalwright_shared.messages import ArtifactRef, ArtifactType
from support.artifacts import MemoryArtifacts

from executor.test_service import House, house

__all__ = ["house"]

MEGABYTE = 1 << 20


async def put(artifacts: MemoryArtifacts, data: bytes) -> ArtifactRef:
    return await artifacts.put_bytes("x", ArtifactType.FILE, data)


async def started(folder: Path, megabytes: int = 8) -> Inputs:
    inputs = Inputs(folder / "inputs", megabytes * MEGABYTE)
    await inputs.start()
    return inputs


def kept(folder: Path) -> set[str]:
    return {path.name for path in (folder / "inputs").iterdir()} - {"lock"}


async def test_an_input_is_fetched_once_also_by_programs_at_the_same_time_and_after_a_restart(
    folder: Path,
) -> None:
    artifacts, inputs = MemoryArtifacts(), await started(folder)
    ref = await put(artifacts, b"x" * 20_000)
    await asyncio.gather(*(inputs.place(ref, artifacts, folder / str(number)) for number in range(8)))
    await (await started(folder)).place(ref, artifacts, folder / "later")
    assert artifacts.reads == [ref.object]
    assert {(folder / name).read_bytes() for name in ("0", "7", "later")} == {b"x" * 20_000}
    assert kept(folder) == {ref.sha256}


async def test_what_was_spoiled_on_the_disk_is_fetched_again(folder: Path) -> None:
    artifacts = MemoryArtifacts()
    ref = await put(artifacts, b"x" * 20_000)
    await (await started(folder)).place(ref, artifacts, folder / "first")
    spoiled = folder / "inputs" / ref.sha256
    spoiled.chmod(0o644)
    spoiled.write_bytes(b"y" * 20_000)
    after = await started(folder)
    await after.place(ref, artifacts, folder / "second")
    await after.place(ref, artifacts, folder / "third")
    assert (folder / "second").read_bytes() == (folder / "third").read_bytes() == b"x" * 20_000
    assert len(artifacts.reads) == 2


async def test_what_was_unused_for_longest_goes_first(folder: Path) -> None:
    artifacts, inputs = MemoryArtifacts(), await started(folder, megabytes=1)
    old, used, new = [await put(artifacts, os.urandom(400_000)) for _ in range(3)]
    for number, ref in enumerate((old, used, old, used, new)):
        await inputs.place(ref, artifacts, folder / str(number))
    assert kept(folder) == {used.sha256, new.sha256}
    await inputs.place(old, artifacts, folder / "again")
    assert hashlib.sha256((folder / "again").read_bytes()).hexdigest() == old.sha256
    assert kept(folder) == {old.sha256, new.sha256}
    assert hashlib.sha256((folder / "1").read_bytes()).hexdigest() == used.sha256, (
        "a program may still read it"
    )


@pytest.mark.parametrize("megabytes", [0, 1])
async def test_what_does_not_fit_is_placed_and_not_kept(folder: Path, megabytes: int) -> None:
    artifacts, inputs = MemoryArtifacts(), await started(folder, megabytes)
    ref = await put(artifacts, b"x" * (MEGABYTE + 1))
    await inputs.place(ref, artifacts, folder / "it")
    assert (folder / "it").stat().st_size == ref.size
    assert not (folder / "inputs").exists() or kept(folder) == set()


async def test_no_program_can_change_what_the_next_one_reads(house: House) -> None:
    ref = await house.artifacts.put_bytes("x", ArtifactType.FILE, b"x" * 20_000)
    attack = (
        "import os\n"
        "for harm in (lambda: open('in/x', 'r+').write('y'), lambda: os.chmod('in/x', 0o666),\n"
        "             lambda: os.truncate('in/x', 1), lambda: os.remove('in/x'), lambda: os.rename('in/x', 'x'),\n"
        "             lambda: os.link('in/x', 'out/x'), lambda: os.utime('in/x', (0, 0)),\n"
        "             lambda: open(f'/proc/self/fd/{os.open(\"in/x\", os.O_RDONLY)}', 'r+').write('y')):\n"
        "    try: harm(); print('done')\n"
        "    except OSError as error: print('refused')\n"
    )
    work: dict[str, Any] = {"_work": {"inputs": {"x": ref}}, "outputs": [{"name": "stdout"}]}
    done = await house.done(attack, **work)
    assert done.outputs["stdout"].inline == "refused\n" * 8
    done = await house.done("print(set(open('in/x').read()), len(open('in/x').read()))", **work)
    assert done.outputs["stdout"].inline == "{'x'} 20000\n"


async def test_content_under_the_wrong_name_reaches_no_program(house: House) -> None:
    bucket = await house.js.object_store("ARTIFACTS")
    right = b"x" * 20_000
    ref = ArtifactRef(
        name="x", type=ArtifactType.FILE, size=len(right), sha256=hashlib.sha256(right).hexdigest(),
        object=hashlib.sha256(right).hexdigest(),
    )  # fmt: skip
    await bucket.put(ref.sha256, b"y" * 20_000)
    failed = await house.failure("pass", _work={"inputs": {"x": ref}})
    assert failed.error.code == "artifact_differs"
    with pytest.raises(ArtifactUnavailable, match="under"):
        await house.artifacts.get_bytes(ref.model_copy(update={"size": 19_999}))


async def test_a_large_file_goes_in_and_out_in_little_memory(house: House, tmp_path: Path) -> None:
    house.settings.program_disk_mb = 64
    big, size = tmp_path / "big", 48 * MEGABYTE
    with big.open("wb") as file:
        for _ in range(48):
            file.write(os.urandom(MEGABYTE))
    ref = await house.artifacts.put_file("x", ArtifactType.FILE, big)
    tracemalloc.start()
    try:
        done = await house.done(
            "import shutil; shutil.copyfile('in/x', 'out/y.bin')",
            outputs=[{"name": "y", "type": "file"}], _work={"inputs": {"x": ref}},
        )  # fmt: skip
        assert tracemalloc.get_traced_memory()[1] < 12 * MEGABYTE
    finally:
        tracemalloc.stop()
    assert (done.outputs["y"].size, done.outputs["y"].sha256) == (size, ref.sha256)
