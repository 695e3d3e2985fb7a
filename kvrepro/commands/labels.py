"""`kvrepro labels`: how much the answer attends to each token of a trace, and the hidden states to predict it from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..bars import duration
from ..errors import KvreproError
from .arguments import add_plan_arguments, plan_of, set_threads, shown_plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Plan, trace folder and distribution."""
    add_plan_arguments(parser)
    parser.add_argument("--traces", type=Path, help="folder of `kvrepro traces` (default: the plan's, made if missing)")
    parser.add_argument("--out", type=Path, help="folder (default: results/predictor/MODEL/labels-HASH)")
    split = "split the traces over processes: accelerate launch -m kvrepro labels PLAN --traces FOLDER --distributed"
    parser.add_argument("--distributed", action="store_true", help=split)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Label what is missing; print the counts."""
    plan = plan_of(args)
    if args.dry_run:
        return shown_plan(plan)
    if args.distributed and args.traces is None:
        raise KvreproError("--distributed splits finished traces: make them first and give their folder with --traces")
    from ..training.importance.pipeline import LoadedModel, make_labels, make_traces
    from ..training.labelling import Workers

    set_threads(args.threads)
    workers = Workers.of_accelerate() if args.distributed else Workers()
    loaded = LoadedModel(plan, args.device or workers.device)
    traces = args.traces or Path(make_traces(plan, loaded=loaded)["folder"])
    manifest = make_labels(plan, traces, folder=args.out, loaded=loaded, workers=workers)
    if not workers.is_main:
        return {"rank": workers.rank}
    for split, counts in manifest["counts"].items():
        print(f"{split}: " + ", ".join(f"{name} {n}" for name, n in counts.items() if n or name == "labelled"))
    print(f"labels in {manifest['folder']}, after {duration(manifest['wall_s'])}")
    return {"folder": manifest["folder"], "counts": manifest["counts"], "wall_s": manifest["wall_s"]}
