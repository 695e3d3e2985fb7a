"""`kvrepro status`: which cells of a profile are done, running, failed or left."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from typing import Any

from ..runs.profiles import load_profile
from ..runs.status import profile_state, remaining_s


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The profile."""
    parser.add_argument("profile")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print a line per cell and the estimate."""
    states = profile_state(load_profile(args.profile))
    for s in states:
        print(f"{s.state:8} {s.cell_id}  {f'{s.wall_s:.0f} s' if s.wall_s is not None else f'{s.samples} samples'}")
    counts = {name: sum(s.state == name for s in states) for name in ("done", "running", "failed", "left")}
    eta = remaining_s(states, os.cpu_count() or 1)
    print(", ".join(f"{n} {name}" for name, n in counts.items()), f"- about {eta:.0f} s left" if eta else "")
    return {"profile": args.profile, **counts, "remaining_s": eta, "cells": [asdict(s) for s in states]}
