"""The private folder of one `kvrepro grid`: marks for Snakemake, its notes, and what others may know of the grid.

Every grid has its own below `results/<profile>/.grid/`, so two of one profile share nothing but results. It is gone
when the grid ends; one that was killed leaves it, and the next grid takes it away.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..claims import is_held
from ..paths import results_root
from ..runs.folder import CellFolder
from ..runs.throughput import Panel


@dataclass(frozen=True)
class GridFolder:
    """`results/<profile>/.grid/<host>-<pid>-<six digits>`."""

    path: Path

    @classmethod
    def new(cls, profile: str) -> GridFolder:
        """One that no other process has: pids repeat between containers whose hosts are called alike."""
        host = re.sub(r"[^A-Za-z0-9]+", "-", platform.node()) or "host"
        return cls(results_root() / profile / ".grid" / f"{host}-{os.getpid()}-{secrets.token_hex(3)}")

    @classmethod
    def all_of(cls, profile: str) -> list[GridFolder]:
        """Those of grids that run, and of grids that were killed."""
        # of one that was killed at once there is nothing but the claim
        found = {path.with_name(path.name.split(".")[0]) for path in (results_root() / profile / ".grid").glob("[!.]*")}
        return [cls(path) for path in sorted(found)]

    @property
    def name(self) -> str:
        """What its jobs are named after."""
        return self.path.name

    @property
    def lock(self) -> Path:
        """Held while the grid lives; beside its folder."""
        return self.path.with_suffix(".lock")

    @property
    def is_alive(self) -> bool:
        """Whether its grid still runs, here or on another machine."""
        return is_held(self.lock)

    @property
    def plan_file(self) -> Path:
        """What the grid runs, and how; all that its Snakefile reads."""
        return self.path / "plan.json"

    @property
    def log(self) -> Path:
        """What Snakemake says while the grid runs."""
        return self.path / "snakemake.log"

    @property
    def kept_log(self) -> Path:
        """Where that lies afterwards, in place of the last grid's."""
        return self.path.parent.parent / "snakemake.log"

    def read_plan(self) -> dict[str, Any]:
        """What the grid wrote; empty where it has not come to it."""
        try:
            return json.loads(self.plan_file.read_text())
        except FileNotFoundError:
            return {}

    def mark(self, of: CellFolder | Panel) -> Path:
        """The empty file that stands for a finished cell or a measured panel."""
        if isinstance(of, Panel):
            return self.path / "marks" / "throughput" / of.name
        return self.path / "marks" / "cells" / of.cell_id

    @property
    def figures_mark(self) -> Path:
        """The empty file that stands for the page with its figures."""
        return self.path / "marks" / "figures"

    def remove(self) -> None:
        """Take it away, and keep what Snakemake said."""
        with contextlib.suppress(OSError):
            os.replace(self.log, self.kept_log)
        shutil.rmtree(self.path, ignore_errors=True)
