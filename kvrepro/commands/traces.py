"""`kvrepro traces`: full-cache replies to training questions, kept where they are right."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..bars import duration
from .arguments import add_plan_arguments, plan_of, set_threads, shown_plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Plan, problems and folder."""
    add_plan_arguments(parser)
    parser.add_argument("--problems", help="JSONL with question, answer and optionally kind")
    parser.add_argument("--out", type=Path, help="folder (default: results/predictor/MODEL/traces-HASH)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Generate what is missing; print what became of every reply."""
    plan = plan_of(args, {"traces.problems": args.problems})
    if args.dry_run:
        return shown_plan(plan)
    from ..training.importance.pipeline import LoadedModel, make_traces

    set_threads(args.threads)
    manifest = make_traces(plan, folder=args.out, loaded=LoadedModel(plan, args.device))
    for split, counts in manifest["counts"].items():
        print(f"{split}: " + ", ".join(f"{name} {n}" for name, n in counts.items() if n or name == "kept"))
    leakage = manifest["leakage"]
    print(f"no question is in {', '.join(leakage['checked'])}")
    for name, reason in leakage["unchecked"].items():
        print(f"NOT checked against {name}: {reason}")
    print(f"traces in {manifest['folder']}, after {duration(manifest['wall_s'])}")
    return {name: manifest[name] for name in ("folder", "counts", "leakage", "wall_s")}
