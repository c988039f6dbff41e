"""After a program: the files that are its declared outputs, taken out of what it left, and their checks."""

from __future__ import annotations

import mimetypes
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from goalwright_shared.checks import check_acceptance, check_output
from goalwright_shared.messages import ArtifactType, CheckResult, OutputSpec, TaskSpec
from goalwright_shared.tables import Reader

from goalwright_executor import collect, core
from goalwright_executor.core import Fault, Limits, Refusal, Run
from goalwright_executor.layout import FOLDERS
from goalwright_executor.sandbox.port import Job


@dataclass(frozen=True)
class Produced:
    """One declared output, as a file on our disk."""

    spec: OutputSpec
    path: Path
    media_type: str | None


def collect_outputs(specs: Sequence[OutputSpec], job: Job, limits: Limits, run: Run) -> list[Produced]:
    """Every declared output, in order; raises `Fault` (`missing_output`, `refused_output`)."""
    store = job.outputs.with_suffix("")
    store.mkdir()
    files = [spec for spec in specs if spec.name not in core.PRINTED]
    taken = {one.spec.name: one for one in _taken(files, job, limits, store)} if files else {}
    return [taken.get(spec.name) or _printed(spec, run, store) for spec in specs]


def _taken(specs: Sequence[OutputSpec], job: Job, limits: Limits, store: Path) -> list[Produced]:
    if not job.outputs.exists():
        raise Fault.of("refused_output", "the program replaced its folder out/ by something else")
    try:
        with tarfile.open(job.outputs, "r:") as archive:
            entries = collect.read_entries(archive, max_bytes=limits.disk_bytes)
            return [_take(spec, archive, entries, store, limits) for spec in specs]
    except collect.Refused as refused:
        raise Fault.of("refused_output", f"out/ is refused: {refused}") from refused
    except (tarfile.TarError, EOFError) as error:
        raise Fault.of("refused_output", f"out/ could not be read: {error}") from error


def untaken(specs: Sequence[OutputSpec], job: Job, limits: Limits) -> list[str]:
    """The entries at the top of out/ that are no declared output; none of an archive that is refused."""
    if not job.outputs.exists():
        return []
    try:
        with tarfile.open(job.outputs, "r:") as archive:
            kinds = collect.read_entries(archive, max_bytes=limits.disk_bytes).kinds
    except (collect.Refused, tarfile.TarError, EOFError):
        return []
    taken = {core.choose(spec, kinds) for spec in specs if spec.name not in core.PRINTED}
    return sorted(path for path in kinds if "/" not in path and path not in taken)


def check(spec: TaskSpec, produced: Sequence[Produced], read: Reader | None = None) -> list[CheckResult]:
    """Type and schema of every output, then the rows and regex checks of the task."""
    found = [result for one in produced for result in check_output(one.spec, one.path, read)]
    return found + check_acceptance(
        spec.acceptance, spec.outputs, {one.spec.name: one.path for one in produced}
    )


def _printed(spec: OutputSpec, run: Run, store: Path) -> Produced:
    data = run.stdout if spec.name == "stdout" else run.stderr
    if spec.type is ArtifactType.TEXT:
        data = data.decode("utf-8", errors="replace").encode()
    path = store / spec.name
    path.write_bytes(data)
    return Produced(spec, path, None)


def _take(
    spec: OutputSpec, archive: tarfile.TarFile, entries: collect.Entries, store: Path, limits: Limits
) -> Produced:
    chosen = core.choose(spec, entries.kinds)
    if isinstance(chosen, Refusal):
        raise Fault.of(chosen.code, chosen.message)
    if spec.type is ArtifactType.DATABASE:
        _refuse_unfinished(chosen, archive, entries)
    path = store / spec.name
    if entries.kinds[chosen] == "folder":
        collect.write_folder(archive, entries, chosen, path)
    else:
        collect.write_file(archive, entries.members[chosen], path)
    if spec.type in FOLDERS and entries.kinds[chosen] == "file" and not tarfile.is_tarfile(path):
        raise Fault.of(
            "refused_output", f"out/{chosen} is neither a folder nor a tar, but output is a {spec.type}"
        )
    if spec.type in FOLDERS and entries.kinds[chosen] == "file":
        collect.look(path, max_bytes=limits.disk_bytes)
    return Produced(spec, path, _media_type(spec, chosen))


_JOURNALS = {"-wal": (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83"), "-journal": (b"\xd9\xd5\x05\xf9",)}
"""Files beside a SQLite file that hold part of what was written, and how they begin while they do:
https://www.sqlite.org/fileformat2.html"""


def _refuse_unfinished(chosen: str, archive: tarfile.TarFile, entries: collect.Entries) -> None:
    """A database is taken as one file: what its program had not written back would be lost without a word."""
    for ending, magics in _JOURNALS.items():
        member = entries.members.get(chosen + ending)
        content = archive.extractfile(member) if member is not None else None
        if content is not None and content.read(4) in magics:
            raise Fault.of(
                "refused_output",
                f"out/{chosen} is not finished: {chosen}{ending} beside it holds what was written last. Close the "
                "database before the program ends",
            )


def _media_type(spec: OutputSpec, path: str) -> str | None:
    """By the file's ending; None (the type's own default) for folders and where the ending says nothing."""
    if spec.type in (*FOLDERS, ArtifactType.DATABASE, ArtifactType.JSON):
        return None
    return _MEDIA_TYPES.get(Path(path).suffix.lower()) or mimetypes.guess_type(path)[0]


_MEDIA_TYPES = {  # the same on every machine, whatever its mime.types says
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
