"""`kvrepro grid`: all cells of a profile and its figures, through Snakemake."""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from ..errors import KvreproError
from ..files import held
from ..kernels.native.library import NativeUnavailableError, ensure_library
from ..paths import native_folder, results_root
from ..runs import workflow
from ..runs.fork_server import fork_server
from ..runs.profiles import Profile, load_profile
from ..runs.throughput import Panel
from .printing import print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The profile, the number of cells side by side, and whatever Snakemake should get besides."""
    parser.add_argument("profile")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="cells that run side by side")
    parser.add_argument("--gpus", type=int, default=None, help="GPUs that cells may take, one each")
    only = "only cells whose id starts so, for example r1-qwen/aime24; repeatable, to split a grid over machines"
    parser.add_argument("--only", action="append", default=[], metavar="PREFIX", help=only)
    dry = "show what would run, without looking at rows and weights"
    parser.add_argument("--dry-run", action="store_true", help=dry)
    alone = "load everything anew for every cell, without the fork server"
    parser.add_argument("--no-fork-server", action="store_true", help=alone)
    parser.add_argument("--snakemake", default="", help="more Snakemake flags, one quoted string")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check what the cells need, run Snakemake with a progress bar on top, draw the page; exit code 1 if cells failed.

    Raises:
        KvreproError: nothing was started: another grid of this profile runs, or cells lack something.
        RunError: Snakemake itself failed.
    """
    whole = load_profile(args.profile)
    if args.cores < 1:
        raise KvreproError(f"--cores {args.cores}: must be at least 1")
    profile = _part(whole, args.only)
    panels, waiting = _panels(whole, profile)
    marks = [thing.mark for thing in (*profile.folders, *panels)] if args.only else []
    command = workflow.snakemake_command(profile.name, marks, args.cores, args.gpus, args.snakemake)
    if args.dry_run:
        states = [folder.state for folder in profile.folders]
        to_run = len(states) - states.count("done")
        to_measure = sum(not panel.is_settled for panel in panels)
        print(
            f"{profile.name}: {len(states)} cells, {to_run} to run, {args.cores} side by side; throughput of "
            f"{len(panels)} panels, {to_measure} to measure, one alone; how long, and what they need: "
            f"kvrepro plan --profile {profile.name}"
        )
        print_table(
            {"state": state, "cell": c.cell_id, "problems": c.n_problems or "all", "samples": c.n_samples}
            for state, c in zip(states, profile.cells, strict=True)
        )
        workflow.set_marks(whole)
        code = workflow.show_plan(command)
        return {"profile": args.profile, "cells": len(profile.cells), "exit_code": int(code != 0)}
    with held(results_root() / profile.name / ".grid.lock", f"the grid {profile.name}"):
        return _run(args, whole, profile, command, panels, waiting)


def _run(
    args: argparse.Namespace,
    whole: Profile,
    profile: Profile,
    command: list[str],
    panels: list[Panel],
    waiting: list[Panel],
) -> dict[str, Any]:
    """The grid itself, under its lock."""
    started, began = time.monotonic(), time.time()
    left = [c for c, folder in zip(profile.cells, profile.folders, strict=True) if not folder.is_complete]
    if left:
        from ..runs.preflight import check_cells

        check_cells(left)
        if not args.gpus:
            _compile_once()
    workflow.set_marks(whole)
    with _forks(args, whole.name, len(left)) as environment:
        code = workflow.run_snakemake(command, profile, environment)
    missing, unmeasured = workflow.failures(profile, began), workflow.unmeasured(panels, began)
    n_cells, n_done = len(profile.cells), len(profile.cells) - len(missing)
    missing += unmeasured
    # noise is no failure, so these change no exit code
    for line in missing + workflow.unmeasured(waiting, began) + workflow.noisy(panels):
        print(line, file=sys.stderr)
    index = results_root() / profile.name / "index.html"
    if code and missing and not any(line.startswith(workflow.FAILED) for line in missing):
        raise workflow.snakemake_error(profile.name)
    if n_done and (code or args.only):
        # failed cells stop the figures' rule, and a part has none: draw what there is, the rest as missing. Where
        # only the figures failed, this says why
        from ..figures.page import write_report

        write_report(whole)
    from ..analysis.verdict import verdict

    if not missing:
        print(f"{n_cells} cells done; open {index}")
    lines = verdict(whole)
    print(*lines, sep="\n")
    return {
        "profile": args.profile,
        "cells": n_cells,
        "done": n_done,
        "measured": len(panels) - len(unmeasured),
        "index": str(index),
        "verdict": lines,
        "wall_s": round(time.monotonic() - started, 1),
        "exit_code": int(bool(missing)),
    }


def _forks(args: argparse.Namespace, profile: str, n_cells: int) -> AbstractContextManager[dict[str, str] | None]:
    """The fork server, where it is worth its start: not for one cell, and not beside GPUs, where cells take hours."""
    if sys.platform != "linux" or args.no_fork_server or args.gpus or n_cells < 2:
        return nullcontext()
    return fork_server(results_root() / profile / "fork_server.log")


def _compile_once() -> None:
    """Build the decode step of a CPU before the first cells would all do it at once, inside their times."""
    try:
        ensure_library(native_folder())
    except NativeUnavailableError as error:
        print(f"no compiled decode step ({error}): on a CPU torch's products decode instead, slower", file=sys.stderr)


def _panels(whole: Profile, part: Profile) -> tuple[list[Panel], list[Panel]]:
    """Panels with a cell in the part: those that are complete once it has run, and those that are not."""
    in_part = {cell.cell_id for cell in part.cells}
    left = {folder.cell_id for folder in whole.folders if not folder.is_complete} - in_part
    asked = [p for p in Panel.all_of(whole) if any(cell.cell_id in in_part for cell in p.cells)]
    waiting = [p for p in asked if any(cell.cell_id in left for cell in p.cells)]
    return [p for p in asked if p not in waiting], waiting


def _part(profile: Profile, prefixes: list[str]) -> Profile:
    """The profile with only the cells that were asked for."""
    cells = tuple(c for c in profile.cells if not prefixes or c.cell_id.startswith(tuple(prefixes)))
    idle = [p for p in prefixes if not any(c.cell_id.startswith(p) for c in cells)]
    if idle:
        known = dict.fromkeys(c.cell_id.rsplit("/", 2)[0] for c in profile.cells)
        raise KvreproError(f"--only {idle[0]}: no cell of {profile.name} starts so; panels are {', '.join(known)}")
    return replace(profile, cells=cells)
