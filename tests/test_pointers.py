"""Every page, heading and link that the repository names exists in it, and nothing points outside it."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from kvrepro.paths import PACKAGE

ROOT = PACKAGE.parent
TEXT = {".py", ".ipynb", ".md", ".yaml", ".yml", ".toml", ".json", ".jsonl", ".csv", ".cpp", ".h", ".txt", ".cff", ""}
# documents that engineers of this package once had beside the repository
OUTSIDE = re.compile(
    r"\b(?:METHODS|BENCHMARKS|PAPER|STYLE|VERIFIED|HOUSE|GPU|DISTRIBUTED)(?:\.md\b|\s+(?:section\s+)?\d+\.\d)"
)
# three digits and more are threads of other projects, which say whose they are
ISSUE = re.compile(r"\bissues?\s+#?\d{1,2}\b(?!\d)", re.IGNORECASE)
PAGE = re.compile(r"\bdocs/([\w-]+\.md)(?:#([\w-]+))?")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ {0,3}```.*?^ {0,3}```\s*?$", re.MULTILINE | re.DOTALL)


@cache
def tracked() -> tuple[Path, ...]:
    """Text files under version control; those that git does not ignore where nothing is committed yet."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: which files belong to the repository is not known")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    paths = [ROOT / name for name in dict.fromkeys(listed)]
    return tuple(path for path in paths if path.suffix in TEXT and path.is_file())


def text_of(path: Path) -> str:
    """What is written in a file; of a notebook its cells without their output."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix != ".ipynb":
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(markdown: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*\s*$", FENCE.sub("", markdown), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number, unique = 0, slug
        while unique in found:
            number += 1
            unique = f"{slug}-{number}"
        found.add(unique)
    return found


@cache
def anchors_of(page: Path) -> frozenset[str]:
    return frozenset(anchors(page.read_text()))


def test_pages_and_headings_that_any_file_names_exist():
    wrong = []
    for path in tracked():
        for page, anchor in PAGE.findall(text_of(path)):
            target = ROOT / "docs" / page
            if not target.is_file() or (anchor and anchor not in anchors_of(target)):
                wrong.append(f"{name_of(path)}: docs/{page}{'#' if anchor else ''}{anchor}")
    assert not wrong, f"no such page or heading: {wrong}"


def test_no_file_names_a_document_outside_the_repository():
    wrong = []
    for path in tracked():
        for number, line in enumerate(text_of(path).splitlines(), 1):
            if found := OUTSIDE.search(line) or ISSUE.search(line):
                wrong.append(f"{name_of(path)}:{number}: {found[0]}")
    assert not wrong, f"{len(wrong)} places name what the repository does not hold:\n" + "\n".join(wrong[:40])


def test_links_of_markdown_pages_lead_somewhere():
    wrong = []
    for path in tracked():
        if path.suffix != ".md":
            continue
        for link in (a or b for a, b in LINK.findall(FENCE.sub("", path.read_text()))):
            if re.match(r"[a-z]+:", link):
                continue
            place, _, anchor = link.partition("#")
            target = (path.parent / place).resolve() if place else path
            missing = not target.exists()
            if missing or (anchor and (target.suffix != ".md" or anchor not in anchors_of(target))):
                wrong.append(f"{name_of(path)}: {link}")
    assert not wrong, f"links that lead nowhere: {wrong}"


def test_anchors_are_those_of_github():
    page = "# A `b_c` page\n## Two, words!\n## Two words\n```\n# no heading\n```\n### [link](x.md) end\n"
    assert anchors(page) == {"a-b_c-page", "two-words", "two-words-1", "link-end"}
