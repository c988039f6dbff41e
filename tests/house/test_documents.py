"""What the pages say is there: links, the generated page, versions, pins."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked(*patterns: str) -> list[Path]:
    """Files that git has or would take; in an export without git, all files that match."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        found = [path for pattern in patterns for path in ROOT.rglob(pattern)]
        return [path for path in found if ".venv" not in path.parts and "node_modules" not in path.parts]
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


PAGES = tracked("*.md")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text()), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings]
    return set(plain)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(CODE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue  # another site: not asked here
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        if fragment and target.suffix == ".md":
            assert fragment in anchors(target), f"{link}: no such heading"


def test_the_page_of_subjects_and_messages_is_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_changelog_has_an_entry_for_this_version() -> None:
    version = re.escape(PROJECT["project"]["version"])
    assert re.search(rf"^## {version}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_readme_shows_the_one_command_within_150_words() -> None:
    before, fence, _ = (ROOT / "README.md").read_text().partition("```")
    assert fence
    assert len(before.split()) <= 150


def test_decisions_are_numbered_in_order_and_have_the_four_parts() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [record.name[:4] for record in records] == [f"{n:04}" for n in range(1, len(records) + 1)]
    for record in records:
        text = record.read_text()
        missing = [
            part for part in ("Context", "Decision", "Consequence", "Evidence") if f"## {part}" not in text
        ]
        assert missing == [], record.name


# put together here, so that this file does not name them either
INDEX_HOSTS = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "npm" + "js.org",
    "npm" + "js.com",
    "deb." + "debian.org",
]


def test_no_file_names_the_host_of_a_package_index() -> None:
    naming = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in tracked("*")
        for host in INDEX_HOSTS
        if host.encode() in path.read_bytes()
    ]
    assert naming == []


def test_every_direct_dependency_is_pinned_with_hashes() -> None:
    pins = (ROOT / "constraints.txt").read_text()
    pinned = set(re.findall(r"^([a-z0-9-]+)==\S+(?: ; [^\\]+)? \\\n    --hash=sha256:", pins, re.MULTILINE))
    extras, groups = PROJECT["project"]["optional-dependencies"], PROJECT["dependency-groups"]
    wanted = PROJECT["project"]["dependencies"] + [
        d for each in (*extras.values(), *groups.values()) for d in each
    ]
    names = {re.split(r"[\[<>=;, ]", each, maxsplit=1)[0].lower().replace("_", "-") for each in wanted}
    assert names - pinned == set()
    assert "://" not in pins
