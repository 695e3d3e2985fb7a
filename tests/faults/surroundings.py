"""Acts around the cells: marks, moved results, a newer clone, an edited profile, cut replies, bad disks."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from functools import partial

from kvrepro.claims import held
from kvrepro.runs.folder import CellFolder

from .lab import Lab
from .project import BUDGETS, PROFILE


def delete_marks(lab: Lab) -> None:
    """The grid's own files go; results are none of them."""
    for folder in lab.place.glob(".grid"):
        # a grid that runs may be writing there
        shutil.rmtree(folder, ignore_errors=True)


def move(lab: Lab) -> None:
    """Results go on in another folder."""
    lab.results = lab.results.rename(lab.folder / "elsewhere")


def copy(lab: Lab) -> None:
    """Results go on as a copy, all as new as now."""
    lab.results = shutil.copytree(lab.results, lab.folder / "copy", copy_function=shutil.copyfile)
    lab.seen.clear()


def renew_clone(lab: Lab) -> None:
    """Every file of the project is as new as now, and its notebook another one."""
    with (lab.root / "notebooks" / "cell.ipynb").open("a") as file:
        file.write("\n")
    for path in lab.root.rglob("*"):
        if path.is_file():
            path.touch()


def add_budget(lab: Lab) -> None:
    """The profile has two cells more."""
    lab.write_profile((*BUDGETS, 224))


def remove_budget(lab: Lab) -> None:
    """The profile has two cells less; what they were stays."""
    lab.write_profile(BUDGETS[:-1])


def put_other_version(lab: Lab) -> None:
    """Finished cells of another version of the package, which have other hashes, lie beside."""
    for cell in lab.finished():
        shutil.copytree(lab.place / cell, lab.place / cell.rsplit("/", 1)[0] / "0123abcd")


def cut_replies(lab: Lab) -> None:
    """The last reply of every unfinished cell is cut in the middle of its line."""
    for cell in lab.left_over():
        for path in CellFolder(lab.place / cell, lab.place).partial.glob("completions*.jsonl"):
            if (size := path.stat().st_size) > 20:
                os.truncate(path, size - 20)
                lab.owed[cell] += 1


def leave_claim(lab: Lab, holder: str) -> None:
    """A claim that nobody holds any more, on an unfinished cell where there is one."""
    cell = lab.draw.choice(lab.left_over() or lab.cells())
    path = CellFolder(lab.place / cell, lab.place).lock
    with held(path, "what a process did that is gone"):
        content = json.loads(path.read_text())
    content |= {"dead": {"pid": 2**22 + 1}, "elsewhere": {"host": "node7", "place": "node7"}, "empty": {}}[holder]
    path.write_text(json.dumps(content) if holder != "empty" else "")
    if holder == "elsewhere":
        os.utime(path, (time.time() - 3600,) * 2)
    lab.look()


@contextlib.contextmanager
def _own_disk(lab: Lab, size: str) -> Iterator[None]:
    """Results on a disk of their own, which is there until the trial has been judged."""
    lab.results.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(lab.results)], check=True)
    try:
        yield
        lab.end()
    finally:
        subprocess.run(["umount", "--lazy", str(lab.results)], check=True)


def _remount(lab: Lab, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(lab.results)], check=True)


def fill_disk(lab: Lab) -> None:
    """Results run out of room for a while."""
    with _own_disk(lab, f"{lab.draw.randrange(100, 400)}k"):
        grid = lab.grid()
        # refused before the start, failed in the middle, or just enough
        grid.codes = (0, 1, 2)
        lab.wait(grid)
        lab.gone()
        lab.keep()
        _remount(lab, "size=64m")


def make_read_only(lab: Lab) -> None:
    """Results that can only be read are looked at, and a grid says what it cannot do."""
    with _own_disk(lab, "64m"):
        lab.part_done()
        _remount(lab, "ro")
        lab.look()
        lab.expect({0}, "summary", PROFILE, "--out", str(lab.folder / "summary"))
        lab.expect({1, 2}, "grid", PROFILE, "--no-fork-server")
        _remount(lab, "rw")


BETWEEN = {
    "results moved": move,
    "results copied": copy,
    "results of another version": put_other_version,
    "replies cut": cut_replies,
    **{f"claim left, {holder}": partial(leave_claim, holder=holder) for holder in ("dead", "elsewhere", "empty")},
}
ACTS = {
    "marks deleted": delete_marks,
    "newer clone": renew_clone,
    "budget added": add_budget,
    "budget removed": remove_budget,
}
DISKS = {"disk full": fill_disk, "disk read-only": make_read_only}
