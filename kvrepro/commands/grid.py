"""`kvrepro grid`: all cells of a profile and its figures, through Snakemake."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from ..runs.profiles import load_profile
from .running import GridOptions, run_grid


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The profile, where and how many of its cells run side by side, and what Snakemake should get besides."""
    parser.add_argument("profile")
    cores = "cells that run side by side (default: as many as there are cores); with --executor jobs at once"
    parser.add_argument("--cores", type=int, help=cores)
    gpus = "GPUs that cells take, one each (default: all of this machine; with --executor what each cell needs)"
    parser.add_argument("--gpus", type=int, metavar="N", help=gpus)
    where = "where cells run: slurm, kubernetes, or a folder with a config.yaml for Snakemake (default: this machine)"
    parser.add_argument("--executor", metavar="NAME", help=where)
    parser.add_argument("--shards", type=int, metavar="N", help="split every cell into N parts, which run side by side")
    longest = "split only cells that are expected to take longer than this, into parts that do not"
    parser.add_argument("--cell-hours", type=float, metavar="H", help=longest)
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
        KvreproError: nothing was started: cells lack something, or what was asked for is not there.
        RunError: Snakemake itself failed.
    """
    asked = {field.name: getattr(args, field.name) for field in fields(GridOptions)}
    return run_grid(load_profile(args.profile), GridOptions(**asked))
