"""A project of two short cells, a grid of it in a process of its own, and who is left of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from kvrepro.paths import PACKAGE
from kvrepro.runs.folder import MANIFEST

LIMIT_S = 5.0  # after which nothing may be left
TWO_CELLS = """
title: Two short cells
methods: [full, window]
defaults: {n_problems: 1, n_samples: 1, max_new_tokens: 120, batch_rows: 1, window: 32, ratio: 0.75}
panels:
  - {model: tiny-r1-llama, benchmark: chain-12, budgets: [192]}
"""


def small_project(folder: Path) -> Path:
    """A project whose profile `two` has two cells of seconds."""
    root = PACKAGE.parent
    (folder / "nbs_params").mkdir(parents=True)
    (folder / "nbs_params" / "two.yaml").write_text(TWO_CELLS)
    shutil.copytree(root / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns("images"))
    shutil.copyfile(root / "Snakefile", folder / "Snakefile")
    return folder


def writing_below(results: Path) -> list[psutil.Process]:
    """Every process on this machine that was started to write there, whoever its parent is."""
    found = []
    for process in psutil.process_iter():
        try:
            own = process.environ().get("KVREPRO_RESULTS") == str(results)
            if own and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            # it ended meanwhile, or is somebody else's
            continue
    return found


class Grid:
    """A grid in a process of its own, writing below a results folder of its own."""

    def __init__(self, root: Path, results: Path, profile: str = "two", cores: int = 2):
        self.results, self.profile = results, profile
        paths = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {
            **os.environ,
            "KVREPRO_ROOT": str(root),
            "KVREPRO_RESULTS": str(results),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(paths),
        }
        self.command = [sys.executable, "-m", "kvrepro", "grid", profile, "--cores", str(cores)]
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        """Start it; its output is kept in a file beside the results."""
        self.results.mkdir(parents=True, exist_ok=True)
        with (self.results / "output").open("w") as out:
            self.process = subprocess.Popen(self.command, env=self.environment, stdout=out, stderr=out, text=True)
        return self.process

    def complete(self) -> dict[str, tuple[int, int]]:
        """Folder of each finished cell -> size and time of its manifest."""
        found = {}
        for path in (self.results / self.profile).glob(f"*/*/*/*/{MANIFEST}"):
            if not path.parent.name.startswith("."):
                found[str(path.parent)] = (path.stat().st_size, path.stat().st_mtime_ns)
        return found

    def commands(self) -> list[str]:
        """Their command lines; one that ends while it is looked at is left out."""
        lines = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                lines.append(" ".join(process.cmdline()))
        return lines

    def processes(self) -> list[psutil.Process]:
        """Every process that writes below these results."""
        return writing_below(self.results)

    def left(self, limit_s: float = LIMIT_S) -> list[str]:
        """Command lines of what is still there after the limit."""
        deadline = time.monotonic() + limit_s
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.commands()
