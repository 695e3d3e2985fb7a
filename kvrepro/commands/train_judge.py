"""`kvrepro train-judge`: ForesightKV's eviction judge for a model, trained on full-cache traces."""

from __future__ import annotations

import argparse
from typing import Any

from ..bars import duration
from ..models.identity import weights_fingerprint
from .arguments import add_source_arguments, collect, opened


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, where to put the judge, what to train on and for how long."""
    add_source_arguments(parser, "judge", problems=300)
    parser.add_argument("--held-out", type=int, default=60, help="problems of the held-out split to score it on")
    parser.add_argument("--steps", type=int, help="training steps")
    parser.add_argument("--periods", type=int, nargs=2, metavar=("LOW", "HIGH"), help="tokens between evictions")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Collect sequences, follow them under drawn budgets, fit the judge, write it with its card."""
    from ..methods.learned.judge import save_judge
    from ..training.judge.training import JudgeRecipe, train_judge

    given = {"steps": args.steps, "periods": args.periods and tuple(args.periods)}
    recipe = JudgeRecipe(seed=args.seed, **{name: value for name, value in given.items() if value is not None})
    entry, folder, model, tokenizer = opened(args, "judge")
    train, source = collect(args, entry, model, tokenizer, "train", args.problems)
    held_out, held_out_source = collect(args, entry, model, tokenizer, "held_out", args.held_out)
    judge, card = train_judge(model, train, held_out, recipe)
    card = {
        "model": entry.name,
        "weights": weights_fingerprint(entry),
        "source": {"train": source, "held_out": held_out_source},
        "stage": "supervised only; the published judge is trained further by reinforcement learning",
        **card,
    }
    save_judge(judge, folder, card)
    for name, value in card["held_out"]["pairwise_accuracy"].items():
        print(f"held out, pairwise accuracy: {name} {value:.3f}")
    print(f"judge in {folder}, after {duration(card['train_s'])} of training")
    return {"folder": str(folder), **card["held_out"], "train_s": card["train_s"]}
