"""Every page, heading, file and link that the repository names exists in it, and nothing points outside it."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from kvrepro.methods.table import METHODS, method_class
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
FILE = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|csv|json|yaml|ipynb|cpp|h|md))`")
FENCE = re.compile(r"^ {0,3}```.*?^ {0,3}```\s*?$", re.MULTILINE | re.DOTALL)


@cache
def tracked() -> tuple[Path, ...]:
    """Text files under version control; those that git does not ignore where nothing is committed yet."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: which files belong to the repository is not known")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
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


def test_files_that_pages_name_exist():
    """A name in capitals is the reader's to fill in."""
    ours = ("kvrepro/", "kernels/", "tests/", "notebooks/", "nbs_params/", "docs/", "measurements/")
    wrong = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        named = [name for name in FILE.findall(page.read_text()) if name.startswith(ours)]
        named = [name for name in named if not Path(name).stem.isupper()]
        wrong += [f"{name_of(page)}: {name}" for name in named if not (ROOT / name).exists()]
    assert not wrong, f"no such file: {wrong}"


def test_anchors_are_those_of_github():
    page = "# A `b_c` page\n## Two, words!\n## Two words\n```\n# no heading\n```\n### [link](x.md) end\n"
    assert anchors(page) == {"a-b_c-page", "two-words", "two-words-1", "link-end"}


def overview_rows() -> dict[str, list[str]]:
    """The overview of methods in docs/methods.md: name -> the other cells of its row."""
    page = (ROOT / "docs" / "methods.md").read_text()
    table = re.search(r"<!-- methods:[^\n]*-->\n(.*?)\n<!-- end -->", page, re.DOTALL)[1].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert rows[0] == ["name", "scores a slot by", "budget as published", "needs", "cost", "source"]
    return {row[0].strip("`"): row[1:] for row in rows[2:]}


def test_the_overview_of_methods_agrees_with_the_registry():
    rows = overview_rows()
    assert list(rows) == list(METHODS), "one row per method, in the order of METHODS"
    for name, (_, _, needs, _, source) in rows.items():
        cls = method_class(name)
        assert (needs, source) == (", ".join(cls.needs) or "-", cls.source), name


def test_every_method_has_its_section():
    missing = set(METHODS) - anchors_of(ROOT / "docs" / "methods.md")
    assert not missing, f"docs/methods.md has no heading for {sorted(missing)}"
