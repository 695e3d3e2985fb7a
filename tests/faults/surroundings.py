"""Faults around a grid: marks, moved results, a newer clone, an edited profile, a full disk, stale locks."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial

from kvrepro.runs.folder import CellFolder

from .lab import Lab
from .project import BUDGETS, METHODS, write_profile
from .stops import FAILED_OR_NOT, stop_grid


def _part_done(lab: Lab) -> None:
    """Some cells are finished, and nothing runs."""
    grid = lab.grid()
    lab.until_finished(2, grid)
    lab.stop(grid, "SIGTERM")
    lab.keep()


def marks_deleted(lab: Lab, is_running: bool) -> None:
    """The grid's own files are deleted; results are none of them."""
    if is_running:
        grid = lab.grid()
        lab.until_finished(2, grid)
        grid.codes = FAILED_OR_NOT
    else:
        _part_done(lab)
    for name in (".done", ".grid"):
        # a grid that runs may be writing there
        shutil.rmtree(lab.place / name, ignore_errors=True)
    lab.wait()


def moved(lab: Lab) -> None:
    """Results go on in another folder."""
    _part_done(lab)
    lab.results = lab.results.rename(lab.folder / "elsewhere")


def copied(lab: Lab) -> None:
    """Results go on as a copy, all as new as now."""
    _part_done(lab)
    lab.results = shutil.copytree(lab.results, lab.folder / "copy", copy_function=shutil.copyfile)
    lab.seen.clear()
    lab.keep()


def newer_clone(lab: Lab, is_running: bool) -> None:
    """Every file of the project is as new as now, another commit, and its notebook another one."""
    _commit(lab)
    if is_running:
        lab.until_finished(2, lab.grid())
    else:
        _part_done(lab)
    with (lab.root / "notebooks" / "cell.ipynb").open("a") as file:
        file.write("\n")
    for path in lab.root.rglob("*"):
        if path.is_file() and ".git" not in path.parts:
            path.touch()
    _commit(lab)
    lab.wait()


def _commit(lab: Lab) -> None:
    git = ["git", "-C", str(lab.root), "-c", "user.name=x", "-c", "user.email=x"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "x"]):
        subprocess.run([*git, *command], check=True)


def profile_edited(lab: Lab, is_running: bool, is_longer: bool) -> None:
    """A budget more or one less; the cells of the others stay."""
    if is_running:
        grid = lab.grid()
        lab.until_finished(1, grid)
        # a cell that the profile has no longer cannot be looked up
        grid.codes = FAILED_OR_NOT
    else:
        _part_done(lab)
    write_profile(lab.root, (*BUDGETS, 224) if is_longer else BUDGETS[:-1], METHODS)
    lab.wait()


@contextlib.contextmanager
def _own_disk(lab: Lab, size: str) -> Iterator[list[str]]:
    """Results on a disk of their own; yields the command that mounts it anew."""
    lab.results.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o"]
    subprocess.run([*mount, f"size={size}", "tmpfs", str(lab.results)], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(lab.results)], check=True)


def _remount(lab: Lab, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(lab.results)], check=True)


def disk_full(lab: Lab) -> None:
    """Results run out of room for a while."""
    with _own_disk(lab, f"{lab.draw.randrange(100, 400)}k"):
        grid = lab.grid()
        # refused before the start, failed in the middle, or just enough
        grid.codes = (0, 1, 2)
        lab.wait(grid)
        lab.gone()
        lab.keep()
        _remount(lab, "size=64m")
        lab.end()


def read_only(lab: Lab) -> None:
    """Results that can only be read are looked at, and a grid says what it cannot do."""
    with _own_disk(lab, "64m"):
        _part_done(lab)
        _remount(lab, "ro")
        lab.look()
        grid = lab.grid()
        grid.codes = (1, 2)
        lab.wait(grid)
        _remount(lab, "rw")
        lab.end()


def other_version(lab: Lab) -> None:
    """Finished cells of another version of the package, which have other hashes, lie beside."""
    _part_done(lab)
    for cell in lab.finished():
        shutil.copytree(lab.place / cell, lab.place / cell.rsplit("/", 1)[0] / "0123abcd")
    lab.look()


def cut_reply(lab: Lab) -> None:
    """The last reply of a cell that was stopped is cut in the middle of its line."""
    stop_grid(lab, "SIGKILL")
    for cell in lab.left_over():
        for path in CellFolder(lab.place / cell, lab.place).partial.glob("*completions*.jsonl"):
            content = path.read_bytes()
            if len(content) > 20:
                os.truncate(path, len(content) - 20)
                lab.owed[cell] += 1


KINDS = {
    "marks deleted between runs": partial(marks_deleted, is_running=False),
    "marks deleted while a grid runs": partial(marks_deleted, is_running=True),
    "results moved": moved,
    "results copied": copied,
    "newer clone between runs": partial(newer_clone, is_running=False),
    "newer clone while a grid runs": partial(newer_clone, is_running=True),
    **{
        f"budget {what} {when}": partial(profile_edited, is_running=is_running, is_longer=is_longer)
        for what, is_longer in (("added", True), ("removed", False))
        for when, is_running in (("between runs", False), ("while a grid runs", True))
    },
    "disk full": disk_full,
    "disk read-only": read_only,
    "results of another version": other_version,
    "reply cut": cut_reply,
}
