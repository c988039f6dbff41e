"""Files in and out: names and types of inputs, and deliverables that may hold anything."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from goalwright_cli import files
from goalwright_shared.errors import ArtifactUnavailable
from goalwright_shared.messages import ArtifactRef, ArtifactType, GoalInput
from hypothesis import given
from hypothesis import strategies as st
from support.artifacts import MemoryArtifacts


@given(st.lists(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1), max_size=8))
def test_names_of_inputs_are_distinct_and_allowed(names: list[str]) -> None:
    found = files.input_names([Path("folder") / name for name in names])
    assert len(set(found)) == len(names)
    for name in found:
        GoalInput(name=name, inline="")


@pytest.mark.parametrize(
    ("path", "name", "kind", "media_type"),
    [
        ("sales 2026.csv", "sales_2026", "table", "text/csv"),
        ("a.TSV", "a", "table", "text/tab-separated-values"),
        ("a.parquet", "a", "table", "application/vnd.apache.parquet"),
        ("a.json", "a", "json", "application/json"),
        ("notes.md", "notes", "text", "text/markdown"),
        ("app.sqlite3", "app", "database", "application/vnd.sqlite3"),
        ("plot.png", "plot", "file", "image/png"),
        (".hidden", "hidden", "file", "application/octet-stream"),
    ],
)
def test_type_and_name_come_from_the_file_name(path: str, name: str, kind: str, media_type: str) -> None:
    assert files.input_names([Path(path)]) == [name]
    assert files.type_of(Path(path)) == (ArtifactType(kind), media_type)


def test_two_files_of_one_stem_keep_apart() -> None:
    paths = [Path("a/x.csv"), Path("a/x.json"), Path("b/x.csv")]
    assert files.input_names(paths) == ["x", "x_json", "x_csv"]


@pytest.mark.parametrize(
    ("name", "media_type", "text", "expected"),
    [
        ("report", "text/markdown", "# A", "report.md"),
        ("report", "text/plain", "# Title\n\nWords", "report.md"),
        ("note", "text/plain", "only words", "note.txt"),
        ("table", "text/csv", "a,b", "table.csv"),
        ("data.json", "application/json", "{}", "data.json"),
        ("../../etc/passwd", "text/plain", "x", "_.._etc_passwd"),
    ],
)
def test_deliverables_get_a_safe_file_name(name: str, media_type: str, text: str, expected: str) -> None:
    assert files.file_name(name, ArtifactRef.of_text("x", text, media_type=media_type)) == expected


def tarred(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for info, body in members:
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return target.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o4777
    return info


async def test_folders_are_unpacked(tmp_path: Path) -> None:
    store = MemoryArtifacts()
    body = tarred((member("a.png"), b"12"), (member("deep/b.svg"), b"345"))
    ref = await store.put_bytes("charts", ArtifactType.FOLDER, body)
    (found,) = await files.download(store, {"charts": ref}, tmp_path / "out")
    assert (found.path, found.size, found.files) == (tmp_path / "out" / "charts", 5, 2)
    assert (tmp_path / "out" / "charts" / "deep" / "b.svg").read_bytes() == b"345"
    assert (tmp_path / "out" / "charts" / "a.png").stat().st_mode & 0o7000 == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["charts"]


@pytest.mark.parametrize(
    "bad",
    [
        member("../escape"),
        member("/etc/escape"),
        member("in/../../escape"),
        member("link", tarfile.SYMTYPE, "/etc"),
        member("hard", tarfile.LNKTYPE, "/etc/passwd"),
        member("device", tarfile.CHRTYPE),
        member("pipe", tarfile.FIFOTYPE),
    ],
)
async def test_folders_that_reach_outside_are_refused(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    store = MemoryArtifacts()
    ref = await store.put_bytes("charts", ArtifactType.FOLDER, tarred((bad, b"")))
    with pytest.raises(ArtifactUnavailable, match="is a link, a device or points outside"):
        await files.download(store, {"charts": ref}, tmp_path / "out")
    assert not (tmp_path / "escape").exists()


async def test_a_link_on_disk_does_not_lead_a_folder_outside(tmp_path: Path) -> None:
    (tmp_path / "out" / "charts").mkdir(parents=True)
    (tmp_path / "out" / "charts" / "sub").symlink_to(tmp_path)
    store = MemoryArtifacts()
    ref = await store.put_bytes("charts", ArtifactType.FOLDER, tarred((member("sub/escape"), b"x")))
    with pytest.raises(ArtifactUnavailable):
        await files.download(store, {"charts": ref}, tmp_path / "out")
    assert not (tmp_path / "escape").exists()


async def test_a_folder_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    store = MemoryArtifacts()
    ref = await store.put_bytes("charts", ArtifactType.FOLDER, b"\0" * 10 + b"not a tar")
    with pytest.raises(ArtifactUnavailable, match="could not be unpacked"):
        await files.download(store, {"charts": ref}, tmp_path / "out")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (4100, "4.1 kB"), (38_000, "38 kB"), (1_250_000, "1.2 MB")]
)
def test_sizes_are_short(size: int, text: str) -> None:
    assert files.size_text(size) == text
