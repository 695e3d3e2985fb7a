"""Acts on results: a finished cell's files deleted or damaged. `hurt` does one of them to one cell."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from kvrepro.runs.folder import MANIFEST, NOTEBOOK, RECORDS

from .lab import Lab

Damage = Callable[[Path, Path], None]  # of a cell's folder; the other one is that of another finished cell


def _delete(name: str, folder: Path, other: Path) -> None:
    (folder / name).unlink()


def _delete_all(folder: Path, other: Path) -> None:
    shutil.rmtree(folder)


def _cut(name: str, folder: Path, other: Path) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])


def _lose_row(folder: Path, other: Path) -> None:
    lines = (folder / RECORDS).read_text().splitlines(keepends=True)
    (folder / RECORDS).write_text("".join(lines[1:]))


def _change_byte(folder: Path, other: Path) -> None:
    """A letter of the first reply's text; it stays JSON."""
    content = (folder / RECORDS).read_text()
    at = content.index('"text": "') + len('"text": "')
    (folder / RECORDS).write_text(content[:at] + ("Z" if content[at] != "Z" else "Y") + content[at + 1 :])


def _take_of(name: str, folder: Path, other: Path) -> None:
    (folder / name).write_bytes((other / name).read_bytes())


DAMAGES: dict[str, Damage] = {
    "manifest deleted": partial(_delete, MANIFEST),
    "records deleted": partial(_delete, RECORDS),
    "notebook deleted": partial(_delete, NOTEBOOK),
    "folder deleted": _delete_all,
    "records cut": partial(_cut, RECORDS),
    "row lost": _lose_row,
    "byte changed": _change_byte,
    "manifest cut": partial(_cut, MANIFEST),
    "manifest of another cell": partial(_take_of, MANIFEST),
    "records of another cell": partial(_take_of, RECORDS),
}


def hurt(lab: Lab, damage: Damage) -> None:
    """Do it to one of the finished cells, which are two at least; it is noticed at once."""
    cell, other = lab.draw.sample(sorted(lab.finished()), 2)
    lab.damaged(cell)
    damage(lab.place / cell, lab.place / other)
    lab.look()


ACTS = {name: partial(hurt, damage=damage) for name, damage in DAMAGES.items()}
