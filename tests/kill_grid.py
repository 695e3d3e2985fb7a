"""Stop grids at random moments and look at what is left; by hand: `python tests/kill_grid.py --moments 10`.

Per signal and moment: a fresh grid is stopped, finished cells must be kept as they are, no process of it may be left
five seconds later, and the same command must then complete the grid. Prints a line per trial and a JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from kvrepro.paths import PACKAGE
from kvrepro.runs.folder import MANIFEST

SIGNALS = ("SIGTERM", "SIGHUP", "SIGINT", "SIGKILL")
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
        """Every process on this machine that writes below these results, whoever its parent is."""
        found = []
        for process in psutil.process_iter():
            try:
                own = process.environ().get("KVREPRO_RESULTS") == str(self.results)
                if own and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                # it ended meanwhile, or is somebody else's
                continue
        return found

    def left(self, limit_s: float = LIMIT_S) -> list[str]:
        """Command lines of what is still there after the limit."""
        deadline = time.monotonic() + limit_s
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.commands()


def trial(root: Path, results: Path, name: str, moment: float, profile: str, cores: int) -> dict[str, object]:
    """Stop a fresh grid after `moment` seconds, then run it again."""
    grid = Grid(root, results, profile, cores)
    process = grid.start()
    try:
        process.wait(moment)
        return {"signal": name, "moment": round(moment, 1), "ended_before": True}
    except subprocess.TimeoutExpired:
        before = grid.complete()
        process.send_signal(getattr(signal, name))
    stopped = time.monotonic()
    left = grid.left()
    took = time.monotonic() - stopped
    code = process.wait()
    lost = [cell for cell, state in before.items() if grid.complete().get(cell) != state]
    second = grid.start().wait()
    redone = [cell for cell, state in before.items() if grid.complete().get(cell) != state]
    return {
        "signal": name,
        "moment": round(moment, 1),
        "finished": len(before),
        "lost": lost,
        "left": left,
        "ended_s": round(took, 2),
        "code": code,
        "second": second,
        "redone": redone,
        "complete": len(grid.complete()),
    }


def is_good(row: dict[str, object], cells: int) -> bool:
    """Does a trial hold what is promised?"""
    number = getattr(signal, str(row["signal"]))
    code = -number if row["signal"] == "SIGKILL" else 128 + number
    fine = not row["lost"] and not row["left"] and not row["redone"]
    # one that is stopped before Python has set its handlers up ends by the signal itself
    return fine and row["code"] in (code, -number) and row["second"] == 0 and row["complete"] == cells


def main() -> int:
    """All signals at random moments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--signals", nargs="+", default=SIGNALS, choices=SIGNALS)
    parser.add_argument(
        "--profile", default="two", help="`two` is a small one of this script; others are the project's"
    )
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    # shells give background jobs an ignored SIGINT and `nohup` an ignored SIGHUP, and children would inherit both
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    draw = random.Random(args.seed)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = small_project(folder / "project") if args.profile == "two" else PACKAGE.parent
        whole = Grid(root, folder / "whole", args.profile, args.cores)
        began = time.monotonic()
        assert whole.start().wait() == 0, (whole.results / "output").read_text()
        length, cells = time.monotonic() - began, len(whole.complete())
        print(f"{cells} cells, {length:.1f} s undisturbed", flush=True)
        for number in range(args.moments):
            for which in args.signals:
                row = {"ended_before": True}
                for attempt in range(5):
                    # the machine may be faster now than it was
                    moment = draw.uniform(0.0, length * 0.7**attempt)
                    row = trial(root, folder / f"{which}-{number}-{attempt}", which, moment, args.profile, args.cores)
                    if not row.get("ended_before"):
                        break
                row["good"] = not row.get("ended_before") and is_good(row, cells)
                rows.append(row)
                print(json.dumps(row), flush=True)
    print(json.dumps({"trials": len(rows), "good": sum(bool(row["good"]) for row in rows)}))
    return int(not all(row["good"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
