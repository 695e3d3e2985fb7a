"""`kvrepro grid`: all cells of a profile and its figures, through Snakemake."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from ..errors import KvreproError, UnknownNameError
from ..paths import project_root, results_root
from ..profiles import load_profile, profile_names

NAME = "grid"
HELP = "run every cell of a profile that is not done, then its figures"
POLL_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The profile, the number of cells side by side, and whatever Snakemake should get besides."""
    parser.add_argument("profile")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="cells that run side by side")
    parser.add_argument("--gpus", type=int, default=None, help="GPUs that cells may take, one each")
    parser.add_argument(
        "--only", action="append", default=[], metavar="PREFIX",
        help="only cells whose id starts so, for example r1-qwen/aime24; repeatable, to split a grid over machines",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="show what would run")
    parser.add_argument("--snakemake", default="", help="more Snakemake flags, one quoted string")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run Snakemake with a progress bar on top; exit code 1 names the cells that failed."""
    if args.profile not in profile_names():
        raise UnknownNameError("profile", args.profile, profile_names())
    if args.cores < 1:
        raise KvreproError(f"--cores {args.cores}: must be at least 1")
    profile = _part(load_profile(args.profile), args.only)
    if args.dry_run:
        for cell in profile.cells:
            print(cell.cell_id, cell.resolved())
        done = subprocess.run(
            [*_command(args, profile), "--dry-run", "--quiet", "rules"], stdout=sys.stderr, check=False
        )
        return {"profile": args.profile, "cells": len(profile.cells), "exit_code": int(done.returncode != 0)}
    started = time.monotonic()
    if not args.gpus:
        _compile_once(profile)
    code = _run_with_progress(args, profile)
    from ..progress import profile_state

    states = profile_state(profile)
    left = [s.cell_id for s in states if s.state != "done"]
    for cell_id in left:
        print(f"not done: {cell_id} (log: {_log_file(args.profile, cell_id)})", file=sys.stderr)
    index = results_root() / args.profile / "index.html"
    if (code or args.only) and len(left) < len(states):
        # failed cells stop the figures' rule, and a part has none: draw what there is, the rest as missing
        from . import summary

        with contextlib.redirect_stdout(sys.stderr):
            summary.run(argparse.Namespace(profile=args.profile))
    if code == 0:
        print(f"{len(states)} cells done; open {index}")
    return {
        "profile": args.profile, "cells": len(states), "done": len(states) - len(left), "index": str(index),
        "wall_s": round(time.monotonic() - started, 1), "exit_code": int(code != 0),
    }  # fmt: skip


def _compile_once(profile) -> None:
    """Build the decode step of a CPU before the first cells would all do it at once, inside their times."""
    from ..kernels.native.library import NativeUnavailableError, ensure_library
    from ..paths import native_folder
    from ..results import CellFolder

    if all(CellFolder.of(profile.name, cell).is_complete for cell in profile.cells):
        return
    try:
        ensure_library(native_folder())
    except NativeUnavailableError as error:
        print(f"no compiled decode step ({error}): on a CPU torch's products decode instead, slower", file=sys.stderr)


def _part(profile, prefixes: list[str]):
    """The profile with only the cells that were asked for."""
    cells = tuple(c for c in profile.cells if not prefixes or c.cell_id.startswith(tuple(prefixes)))
    idle = [p for p in prefixes if not any(c.cell_id.startswith(p) for c in cells)]
    if idle:
        known = dict.fromkeys(c.cell_id.rsplit("/", 2)[0] for c in profile.cells)
        raise KvreproError(f"--only {idle[0]}: no cell of {profile.name} starts so; panels are {', '.join(known)}")
    return replace(profile, cells=cells)


def _command(args: argparse.Namespace, profile) -> list[str]:
    # a part is asked for by its files; without any, Snakemake makes everything and the figures
    part = (
        [str(results_root() / profile.name / c.cell_id / "manifest.json") for c in profile.cells] if args.only else []
    )
    gpus = [] if args.gpus is None else ["--resources", f"gpu={args.gpus}"]
    return [
        sys.executable, "-m", "snakemake", *part, "--snakefile", str(project_root() / "Snakefile"),
        "--directory", str(project_root()), "--cores", str(args.cores), "--keep-going", "--rerun-incomplete",
        "--nolock", "--rerun-triggers", "input", "mtime", "params", *gpus, "--config", f"profile={args.profile}",
        *args.snakemake.split(),
    ]  # fmt: skip


def _run_with_progress(args: argparse.Namespace, profile) -> int:
    from ..results import CellFolder

    folders = [CellFolder.of(profile.name, cell) for cell in profile.cells]
    log = results_root() / profile.name / "snakemake.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out, tqdm(total=len(folders), desc=f"{profile.name} cells", file=sys.stderr) as bar:
        # a group of its own, so that Ctrl-C reaches every cell and nothing is left running
        process = subprocess.Popen(_command(args, profile), stdout=out, stderr=out, start_new_session=True)
        try:
            while process.poll() is None:
                _show(bar, folders)
                time.sleep(POLL_S)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
        _show(bar, folders)
    if process.returncode:
        tail = log.read_text().splitlines()[-15:]
        print("\n".join(["Snakemake failed; the end of its log:", *tail, f"all of it: {log}"]), file=sys.stderr)
    return process.returncode


def _show(bar: tqdm, folders: list) -> None:
    from ..execution import is_running

    done = sum(folder.is_complete for folder in folders)
    running = sum(not folder.is_complete and is_running(folder) for folder in folders)
    bar.set_postfix_str(f"{running} running, {len(folders) - done - running} left")
    bar.update(done - bar.n)


def _log_file(profile: str, cell_id: str) -> str:
    path = results_root() / profile / "logs" / f"{cell_id.replace('/', '_')}.log"
    return str(path) if path.is_file() else f"never started, see {results_root() / profile / 'snakemake.log'}"
