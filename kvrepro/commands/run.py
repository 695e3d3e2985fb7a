"""`kvrepro run`: one cell, executed as a notebook."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import KvreproError
from ..files import read_yaml
from ..models.table import generation_defaults
from ..paths import listed_gpus
from ..runs.config import CellConfig
from ..runs.folder import CellFolder, read_manifest
from ..runs.gpus import host_gpus
from ..runs.parts import Part, claimed_part
from ..runs.processes import CELL_ENVIRONMENT
from ..runs.profiles import Profile, load_profile
from .arguments import compile_once, set_values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the cell comes from, and `--dry-run`."""
    parser.add_argument("--profile", help="take the cell from this profile, and write below results/PROFILE")
    parser.add_argument("--cell", help="id or hash of a cell of the profile")
    parser.add_argument("--params", help="YAML file with the cell's parameters")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one parameter; repeatable")
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="make part I of N of the cell's replies and stop; without it a run makes what is missing and gathers",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check the cell and print the values that it would run with"
    )
    gpus = "devices of KVREPRO_GPUS to hold meanwhile, where that is set (default: 1)"
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help=gpus)
    # of the grid, which has looked at all its cells already; loading torch once more takes seconds a cell
    parser.add_argument("--checked", action="store_true", help=argparse.SUPPRESS)
    # and its plan, which holds the cell whatever becomes of the profile meanwhile
    parser.add_argument("--planned", type=Path, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the cell, or one part of it, or say that it is complete."""
    part = None if args.shard is None else Part.parse(args.shard)
    if part is not None:
        # a part runs in this process, as a whole cell in its kernel: before torch is loaded
        for name, value in CELL_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    profile = load_profile(args.profile) if args.profile and not args.planned else None
    config = _planned(args) if args.planned else _config(args, profile)
    folder = CellFolder.of(args.profile or "single", config)
    row = {"cell_id": config.cell_id, "folder": str(folder.path)}
    if not args.checked:
        # a part that runs is checked once it has its GPU: the checks start CUDA, which then knows its devices for good
        is_checked = args.dry_run or part is None
        row |= _looked_at(args.dry_run, config, folder, profile.cells if profile else (), is_checked)
    if args.dry_run:
        state = "complete, a run would only read it" if folder.is_complete else "not run yet"
        print(f"{config.cell_id}: {state}")
        return row
    if part is not None and not folder.is_complete and (made := _run_part(config, folder, part, args.gpus)) is not None:
        return {**row, "shard": str(part), **made}
    if part is not None or folder.is_complete:
        print("complete")
    else:
        from ..runs.notebooks import run_cell_notebook

        if not args.checked and not host_gpus():
            # in the kernel nobody would see why the cell takes so long to begin
            compile_once()

        run_cell_notebook(args.profile or "single", config, args.gpus)
    manifest = read_manifest(folder.path)
    score = manifest["score"]
    print(
        f"{config.cell_id}: Pass@1 {100 * score['pass_at_1']:.1f} % "
        f"[{100 * score['pass_at_1_lo']:.1f}, {100 * score['pass_at_1_hi']:.1f}], n={score['n_problems']}, "
        f"k={score['n_samples']}, {manifest['stats']['decode_tps']:.0f} tokens/s; in {folder.path}"
    )
    return {**row, "score": score, "decode_tps": manifest["stats"]["decode_tps"]}


def _run_part(config: CellConfig, folder: CellFolder, part: Part, n_gpus: int) -> dict[str, int] | None:
    """Make a part's replies in this process; None where the cell was completed meanwhile."""
    with claimed_part(folder, part):
        if folder.is_complete:
            return None
        from ..runs.runner import run_shard

        made = run_shard(config, folder.partial, part, n_gpus=n_gpus)
    there = made["replies"] - made["made"]
    print(f"{config.cell_id}: part {part}: {made['made']} replies made, {there} were there")
    return made


def _looked_at(
    is_dry: bool, config: CellConfig, folder: CellFolder, beside: Sequence[CellConfig], is_checked: bool
) -> dict[str, Any]:
    """What a dry run accepts, a run accepts: both look at the same things, in the same order, and say what they saw.

    Raises:
        KvreproError: the cell cannot run as it is.
    """
    from ..runs.resolution import resolve_cell

    resolved = resolve_cell(config)
    if is_dry:
        print(yaml.safe_dump(resolved.values(), sort_keys=False), end="")
    for line in resolved.lines((), [cell.resolved() for cell in beside]):
        # before hours of decoding; a run that fails has no output of its own
        print(line, file=sys.stdout if is_dry else sys.stderr)
    if is_checked and not folder.is_complete:
        from ..runs.preflight import check_cells

        # what is free of a device that runs share is asked once it is held
        check_cells([config], is_here=not listed_gpus())
    seen = {"budget_meaning": resolved.budget_line}
    if is_dry:
        seen |= {"complete": folder.is_complete, "config": config.resolved(), "resolved": resolved.values()}
    return seen


def _planned(args: argparse.Namespace) -> CellConfig:
    config = CellConfig.from_mapping(json.loads(args.planned.read_text())["cells"][args.cell]["config"])
    if config.cell_id != args.cell:
        raise KvreproError(
            f"{args.cell} is {config.cell_id} now: a file of its method, weights or rows changed since the grid began; "
            "start it again"
        )
    return config


def _config(args: argparse.Namespace, profile: Profile | None) -> CellConfig:
    values: dict[str, Any] = {}
    if args.cell:
        if profile is None:
            raise KvreproError("--cell names a cell of a profile: give --profile as well")
        values = profile.cell(args.cell).resolved()
    if args.params:
        values |= read_yaml(Path(args.params), "a mapping of parameters")
    values |= set_values(args.set, "budget=192")
    if profile and "model" not in values:
        shown = [c.cell_id for c in profile.cells[:3]]
        raise KvreproError(
            f"--profile {profile.name} alone names no cell: add --cell with an id or the hash it ends in, such as "
            f"{', '.join(shown)} (`kvrepro grid {profile.name} --dry-run` prints all)"
        )
    return CellConfig.from_mapping({**generation_defaults(values.get("model")), **values})
