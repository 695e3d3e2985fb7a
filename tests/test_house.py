"""Rules that every file keeps: its length, its formatting, and the ids of cells that it must not change unnoticed."""

from __future__ import annotations

import ast
import subprocess

from kvrepro.paths import PACKAGE

from . import frozen

ROOT = PACKAGE.parent
SKIP = "# fmt: " + "skip"
FILES = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    if (ROOT / name).is_file()
]


def test_no_file_is_longer_than_300_lines():
    assert len(FILES) > 300
    lengths = {path.relative_to(ROOT).as_posix(): path.read_text().count("\n") for path in FILES}
    assert {name: n for name, n in lengths.items() if n > 300} == {}


def test_what_is_not_formatted_says_why_in_the_line_above():
    without = []
    for path in FILES:
        text = path.read_text()
        if SKIP not in text:
            continue
        lines = text.split("\n")
        for node in ast.parse(text).body:
            ends = lines[node.end_lineno - 1].endswith(SKIP)
            if ends and not lines[node.lineno - 2].startswith("#"):
                without.append(f"{path.name}:{node.lineno}")
        assert text.count(SKIP) == sum(lines[n.end_lineno - 1].endswith(SKIP) for n in ast.parse(text).body), path
    assert without == []


def test_cell_ids_are_those_that_were_frozen():
    changed = frozen.differences("cell ids")
    assert not changed, "\n".join([*changed, "if intended: python -m tests.frozen write"])
