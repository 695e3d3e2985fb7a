"""`kvrepro train`: an importance predictor for a model, from full-cache traces of generated problems."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

NAME = "train"
HELP = "train the importance predictor of a model on its own full-cache traces"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, where to put the head, and the size of the run."""
    parser.add_argument("model", help="a name from `kvrepro list models`, or a folder")
    parser.add_argument("--out", type=Path, help="folder of the head (default: importance/ in the model's folder)")
    parser.add_argument("--traces", type=int, help="training problems")
    parser.add_argument("--held-out", type=int, help="held-out problems")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--threads", type=int, default=2)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Generate traces, label them, fit the head, write it with its card."""
    import torch

    from ..loading import load_model
    from ..models import model_entry, weights_fingerprint
    from ..predictor import FOLDER, save_predictor
    from ..predictor_training import PredictorRecipe, train_predictor
    from ..traces import generate_traces, tiny_questions

    torch.set_num_threads(args.threads)
    given = {"n_traces": args.traces, "n_held_out": args.held_out, "epochs": args.epochs, "seed": args.seed}
    recipe = PredictorRecipe(**{name: value for name, value in given.items() if value is not None})
    entry = model_entry(args.model)
    model, tokenizer = load_model(entry)
    splits, counts = {}, {}
    for split, n_problems in (("train", recipe.n_traces), ("held_out", recipe.n_held_out)):
        questions = tiny_questions(split, n_problems, recipe.sizes, recipe.seed)
        splits[split], counts[split] = generate_traces(model, tokenizer, questions, seed=recipe.seed)
        print(f"{split}: {counts[split]}")
    predictor, card = train_predictor(model, splits["train"], splits["held_out"], recipe)
    card = {"model": entry.name, "weights": weights_fingerprint(entry), "traces": counts, **card}
    folder = args.out or Path(entry.source) / FOLDER
    save_predictor(predictor, folder, card)
    print(f"held out: {card['held_out']}")
    return {"folder": str(folder), **card["held_out"], "train_s": card["train_s"]}
