"""Faults of results: a finished cell's files deleted or damaged, between runs and while a grid runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from kvrepro.runs.folder import MANIFEST, NOTEBOOK, RECORDS

from .lab import Lab
from .stops import FAILED_OR_NOT


def delete(name: str, folder: Path, other: Path) -> None:
    (folder / name).unlink()


def delete_all(folder: Path, other: Path) -> None:
    shutil.rmtree(folder)


def cut(name: str, folder: Path, other: Path) -> None:
    """Only the first half of a file is left."""
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])


def lose_row(folder: Path, other: Path) -> None:
    lines = (folder / RECORDS).read_text().splitlines(keepends=True)
    (folder / RECORDS).write_text("".join(lines[1:]))


def change_byte(folder: Path, other: Path) -> None:
    """A letter of the first reply's text; it stays JSON."""
    content = (folder / RECORDS).read_text()
    at = content.index('"text": "') + len('"text": "')
    (folder / RECORDS).write_text(content[:at] + ("Z" if content[at] != "Z" else "Y") + content[at + 1 :])


def of_another(name: str, folder: Path, other: Path) -> None:
    """A file as another cell has it."""
    content = (other / name).read_text()
    if name == RECORDS:
        # replies of other cells of this project are the same but for what the method adds to them
        content = content.replace('"n_answer_tokens": 2', '"n_answer_tokens": 3')
    (folder / name).write_text(content)


DAMAGES: dict[str, Callable[[Path, Path], None]] = {
    "manifest deleted": partial(delete, MANIFEST),
    "records deleted": partial(delete, RECORDS),
    "notebook deleted": partial(delete, NOTEBOOK),
    "folder deleted": delete_all,
    "records cut": partial(cut, RECORDS),
    "row lost": lose_row,
    "byte changed": change_byte,
    "manifest cut": partial(cut, MANIFEST),
    "manifest of another cell": partial(of_another, MANIFEST),
    "records of another cell": partial(of_another, RECORDS),
}


def between_runs(lab: Lab, damage: Callable[[Path, Path], None]) -> None:
    """Stop a grid once two cells are finished, or let it end; then damage one of them."""
    grid = lab.grid()
    if lab.draw.random() < 0.5:
        lab.until_finished(2, grid)
        lab.stop(grid, "SIGTERM")
    lab.wait(grid)
    lab.gone()
    lab.keep()
    _damage(lab, damage)


def while_it_runs(lab: Lab, damage: Callable[[Path, Path], None]) -> None:
    """Damage a finished cell while others are made; this grid or the next one makes it again."""
    grid = lab.grid()
    lab.until_finished(2, grid)
    lab.keep()
    _damage(lab, damage)
    grid.codes = FAILED_OR_NOT
    lab.wait(grid)


def _damage(lab: Lab, damage: Callable[[Path, Path], None]) -> None:
    done = sorted(lab.finished())
    cell, other = lab.draw.sample(done, 2)
    lab.damaged(cell)
    damage(lab.place / cell, lab.place / other)
    lab.look()


KINDS = {
    f"{name} {when}": partial(happens, damage=damage)
    for name, damage in DAMAGES.items()
    for when, happens in (("between runs", between_runs), ("while a grid runs", while_it_runs))
}
