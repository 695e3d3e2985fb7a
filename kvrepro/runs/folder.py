"""Result files of a cell: where they lie, how they are written whole, how they are read back."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from ..claims import holder, is_held
from ..errors import KvreproError, RunError
from ..files import ResultFolder, read_objects
from ..paths import results_root
from .config import CellConfig

FILES = NOTEBOOK, RECORDS, MANIFEST = "run.ipynb", "records.jsonl", "manifest.json"
# what a grader needs of a record, and what every record of a run has
GRADED_FIELDS = ("problem_id", "sample_id", "status", "text", "gold")
RECORD_FIELDS = (*GRADED_FIELDS, "answer", "correct", "n_prompt_tokens", "n_thinking_tokens", "n_answer_tokens")


@dataclass(frozen=True)
class CellFolder(ResultFolder):
    """The folder of one cell, and what else a grid keeps of the cell in its profile's folder `root`."""

    root: Path

    @classmethod
    def of(cls, profile: str, config: CellConfig) -> CellFolder:
        """`results/<profile>/<model>/<benchmark>/<method>-<budget>/<hash8>`."""
        root = results_root() / profile
        return cls(root / config.cell_id, root)

    @property
    def cell_id(self) -> str:
        """The cell's, which is its place below the profile's folder."""
        return self.path.relative_to(self.root).as_posix()

    @property
    def _name(self) -> str:
        return self.cell_id.replace("/", "_")

    @property
    def failed_notebook(self) -> Path:
        """What is left of a run that failed."""
        return self.root / "failed" / f"{self._name}.ipynb"

    @property
    def log(self) -> Path:
        """What the cell's process in a grid wrote."""
        return self.root / "logs" / f"{self._name}.log"

    @property
    def damage(self) -> str | None:
        """What is wrong with the results that lie here, in one line; None where they are whole or there are none.

        Files are read once in a process, and again only where they have changed. Results that cannot be read may be
        whole: they do not count as complete, and are never set aside.
        """
        try:
            return self._look()
        except OSError as error:
            return f"{Path(error.filename or RECORDS).name} cannot be read ({error.strerror}); is it yours?"

    def _look(self) -> str | None:
        """As `damage`, but what cannot be read is an OSError."""
        found = {name: _stamp(self.path / name) for name in FILES}
        if not any(found.values()):
            return None
        if missing := [name for name, stamp in found.items() if stamp is None]:
            return f"{' and '.join(missing)} missing"
        # a folder that is no profile's may hold any cell
        cell_id = None if self.path == self.root else self.cell_id
        try:
            return _damage(self.path, cell_id, tuple(found.values()))
        except FileNotFoundError:
            # taken away while it was looked at
            return f"{RECORDS} missing"

    @property
    def is_complete(self) -> bool:
        """True where all three files lie here, of this cell and as its run wrote them."""
        # the damage first: a folder that may not be looked into is one
        return self.damage is None and (self.path / MANIFEST).is_file()

    @property
    def is_running(self) -> bool:
        """True while some process holds the claim of the cell's unfinished run."""
        return is_held(self.lock)

    @property
    def state(self) -> str:
        """`done`, `running`, `failed` or `left`, from the cell's files alone: not from times or other cells."""
        if self.is_complete:
            return "done"
        return "running" if self.is_running else "failed" if self.failed_notebook.is_file() else "left"

    def publish(self) -> None:
        """Put a finished run in its place, all of it in one step; damaged results that lie there are set aside.

        Raises:
            RunError: a file of the run is missing, another process has taken over or finished the cell, or what lies
                in its place cannot be read.
        """
        if missing := [name for name in FILES if not (self.partial / name).is_file()]:
            raise RunError(f"{self.partial} cannot be published: {' and '.join(missing)} missing; run the cell again")
        owner = holder(self.lock)
        if owner is not None and not owner.is_this_process:
            raise RunError(f"cell {self.cell_id}: {owner} took over from this process and goes on with it")
        made = f"what this one made is in {self.partial}"
        try:
            damage = self._look()
        except OSError as error:
            raise RunError(
                f"{self.path} holds results that may be whole and cannot be read ({error}); {made}: "
                "have them made readable, or move them away, and run the cell again"
            ) from error
        if damage is not None or not (self.path / MANIFEST).is_file():
            self._set_aside(damage or "holds something else")
            for path in self.partial.iterdir():
                if path.name not in FILES:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            try:
                # onto a folder that holds something this fails
                self.partial.rename(self.path)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        raise RunError(f"{self.path} was finished by another process meanwhile; {made}")

    def _set_aside(self, damage: str) -> None:
        """Rename what lies in the cell's place, hidden and beside it; nothing is deleted."""
        names = (self.path.with_name(f".{self.path.name}.damaged-{n}") for n in count(1))
        aside = next(path for path in names if not path.exists())
        try:
            # an empty folder is in nobody's way
            self.path.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            self.path.rename(aside)
            print(f"{self.path}: {damage}; made again, what was there is now {aside.name}", file=sys.stderr)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file's content; None where there is no file."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@cache
def _damage(path: Path, cell_id: str | None, stamps: tuple) -> str | None:
    """What is wrong with results whose files are all there; `stamps` are those that the answer is remembered for."""
    try:
        manifest = read_manifest(path)
    except RunError as error:
        return str(error)
    if cell_id not in (None, found := manifest.get("cell_id")):
        return f"{MANIFEST} is of cell {found}"
    n_rows, digest = 0, hashlib.sha256()
    with (path / RECORDS).open("rb") as file:
        while chunk := file.read(2**20):
            n_rows += chunk.count(b"\n")
            digest.update(chunk)
    if n_rows != (expected := manifest.get("n_records")):
        return f"{RECORDS} has {n_rows} rows, {MANIFEST} says {expected}"
    # manifests of older versions do not say it
    if manifest.get("records_sha256") not in (None, digest.hexdigest()):
        return f"{RECORDS} is not the one that the cell wrote: its SHA-256 differs from the manifest's"
    return None


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """Graded replies of a finished cell, by its folder and checked against its manifest, or of a file of records.

    Raises:
        KvreproError: no such file, no rows, or a row without `RECORD_FIELDS` (of a file, without `GRADED_FIELDS`).
        RunError: a line that cannot be read, a folder without a manifest, or another number of rows than it says.
    """
    path = Path(path)
    is_cell = path.is_dir()
    manifest = read_manifest(path) if is_cell else {}
    file = path / RECORDS if is_cell else path
    if not file.is_file():
        raise KvreproError(f"{file} is no file; give a records.jsonl, or a folder that holds one")
    rows = [row for _, row in read_objects(file, RECORD_FIELDS if is_cell else GRADED_FIELDS, RunError)]
    if not rows:
        raise KvreproError(f"{file} holds no records; a cell without replies has no score")
    # a manifest that was written by hand may not say it
    if len(rows) != (expected := manifest.get("n_records", len(rows))):
        raise RunError(f"{file} has {len(rows)} rows, its manifest says {expected}: run the cell again")
    return rows


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished cell.

    Raises:
        RunError: it is missing or cannot be read.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise RunError(f"{folder} is no finished cell: {MANIFEST} is missing") from error
    except ValueError as error:
        raise RunError(f"{path} cannot be read ({error}): run the cell again") from error
    if not isinstance(manifest, dict):
        raise RunError(f"{path} holds {type(manifest).__name__}, expected an object: run the cell again")
    return manifest


def configs_beside(folder: Path) -> list[dict[str, Any]]:
    """Configurations of the finished cells that lie beside a cell's folder: those of its model and benchmark."""
    found = []
    for path in sorted(folder.resolve().parent.parent.glob(f"[!.]*/[!.]*/{MANIFEST}")):
        try:
            found.append(read_manifest(path.parent)["config"])
        except (RunError, KeyError, OSError):
            # a broken neighbour is no reason to stop this cell; whoever reads its numbers is told
            continue
    return found
