"""`kvrepro train`: an importance predictor; makes the traces and labels it needs first."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..bars import duration
from .arguments import add_plan_arguments, plan_of, set_threads, shown_plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Plan, labels, where to put the head, and the size of the run."""
    add_plan_arguments(parser)
    parser.add_argument("--labels", type=Path, help="folder of `kvrepro labels` (default: the plan's, made if missing)")
    where = "folder of the head (default: importance/ in a local model's folder, else results/predictor/...)"
    parser.add_argument("--out", type=Path, help=where)
    parser.add_argument("--recipe", choices=("best", "published"))
    parser.add_argument("--traces", type=int, help="training problems")
    parser.add_argument("--held-out", type=int, help="held-out problems")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, help="of traces and training")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the stages that are missing and print the head's held-out scores beside the baselines'."""
    traces = {"traces.n_train": args.traces, "traces.n_held_out": args.held_out, "traces.seed": args.seed}
    training = {"training.epochs": args.epochs, "training.seed": args.seed, "training.recipe": args.recipe}
    plan = plan_of(args, traces | training)
    if args.dry_run:
        return shown_plan(plan)
    from ..training.importance.pipeline import LoadedModel, default_head_folder, make_head, make_labels, make_traces

    set_threads(args.threads)
    labels = args.labels
    if labels is None:
        loaded = LoadedModel(plan, args.device)
        traces = make_traces(plan, loaded=loaded)
        labels = Path(make_labels(plan, Path(traces["folder"]), loaded=loaded)["folder"])
    card = make_head(plan, labels, folder=args.out or default_head_folder(plan), device=args.device)
    for name, scores in card["scores"].items():
        cells = (f"{metric} {v['mean']:.3f} [{v['lo']:.3f}, {v['hi']:.3f}]" for metric, v in scores.items())
        print(f"{name:9} " + ", ".join(cells))
    print(f"head in {card['folder']}, after {duration(card['wall_s'])}; labels in {labels}")
    shown = {name: card[name] for name in ("lead", "train_s", "wall_s")}
    return {"folder": card["folder"], "labels": str(labels), **card["held_out"], **shown}
