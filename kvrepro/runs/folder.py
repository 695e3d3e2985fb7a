"""Result files of a cell: where they lie, how they are written whole, how they are read back."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import KvreproError, RunError
from ..files import ResultFolder, is_held, read_objects
from ..paths import results_root
from .config import CellConfig

NOTEBOOK, RECORDS, MANIFEST = "run.ipynb", "records.jsonl", "manifest.json"
COMPLETIONS = "completions.jsonl"  # replies of a cell that is still running, ungraded
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
    def is_complete(self) -> bool:
        """True once all three files are in place; the manifest comes last."""
        return all((self.path / name).is_file() for name in (MANIFEST, RECORDS, NOTEBOOK))

    @property
    def is_running(self) -> bool:
        """True while some process holds the lock of the cell's unfinished run."""
        return is_held(self.lock)

    @property
    def state(self) -> str:
        """`done`, `running`, `failed` or `left`, from the cell's files alone: not from times or other cells."""
        if self.is_complete:
            return "done"
        return "running" if self.is_running else "failed" if self.failed_notebook.is_file() else "left"

    @property
    def n_replies(self) -> int:
        """Replies that an unfinished run has written so far."""
        path = self.partial / COMPLETIONS
        return sum(1 for _ in path.open()) if path.is_file() else 0

    def publish(self) -> None:
        """Move a finished run into place, manifest last; whatever is missing before that is not taken for done."""
        self.path.mkdir(parents=True, exist_ok=True)
        for name in (NOTEBOOK, RECORDS, MANIFEST):
            os.replace(self.partial / name, self.path / name)
        shutil.rmtree(self.partial)


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
        raise RunError(f"{path} cannot be read ({error}): delete the folder and run the cell again") from error
    if not isinstance(manifest, dict):
        raise RunError(f"{path} holds {type(manifest).__name__}, expected an object: delete the folder and run again")
    return manifest


def configs_beside(folder: Path) -> list[dict[str, Any]]:
    """Configurations of the finished cells that lie beside a cell's folder: those of its model and benchmark."""
    found = []
    for path in sorted(folder.resolve().parent.parent.glob(f"*/*/{MANIFEST}")):
        try:
            found.append(read_manifest(path.parent)["config"])
        except (RunError, KeyError):
            # a broken neighbour is no reason to stop this cell; whoever reads its numbers is told
            continue
    return found
