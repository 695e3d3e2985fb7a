"""What several commands share: arguments, `--set` values, the plan of a training, sequences to measure or train on."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..errors import KvreproError
from ..kernels.native.library import NativeUnavailableError, ensure_library
from ..methods.learned.folder import LEARNED
from ..models.table import ModelEntry, model_entry
from ..paths import native_folder

if TYPE_CHECKING:
    from ..training.importance.settings import TrainingSettings
    from ..training.traces import Trace


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """The plan, its changed settings, threads and a dry run."""
    parser.add_argument("plan", help="a name in nbs_params/predictor, a YAML file, a model name or a model folder")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as traces.n_train=50")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: cuda where there is one")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved settings and stop")


def plan_of(args: argparse.Namespace, more: dict[str, Any] | None = None) -> TrainingSettings:
    """The plan with `--set` values and `more` settings (None means not given).

    Raises:
        KvreproError: a value that is no NAME=VALUE.
    """
    from ..training.importance.settings import load_plan

    if args.threads < 1:
        raise KvreproError(f"--threads={args.threads}; expected at least 1")
    settings = {name: value for name, value in (more or {}).items() if value is not None}
    settings |= set_values(args.set, "traces.n_train=50")
    return load_plan(args.plan).changed(settings)


def set_values(items: Sequence[str], example: str) -> dict[str, Any]:
    """The values of `--set NAME=VALUE`, read as YAML, of which JSON is a part.

    Raises:
        KvreproError: an item without `=`, or a value that cannot be read.
    """
    values = {}
    for item in items:
        name, mark, text = item.partition("=")
        if not mark or not name:
            raise KvreproError(f"--set {item}: expected NAME=VALUE, such as {example}")
        try:
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise KvreproError(f"--set {item}: not valid YAML: {error}") from error
    return values


def shown_plan(plan: TrainingSettings) -> dict[str, Any]:
    """The resolved plan as one JSON-ready object, printed as YAML."""
    parts = {"traces": asdict(plan.traces), "labels": asdict(plan.labels), "training": asdict(plan.recipe())}
    # tuples become lists
    resolved = json.loads(json.dumps({"model": plan.model, **parts}))
    print(yaml.safe_dump(resolved, sort_keys=False).rstrip())
    return {"plan": resolved}


def compile_once() -> None:
    """Build the decode step of a CPU where it is not there yet, and say so."""
    try:
        ensure_library(native_folder())
    except NativeUnavailableError as error:
        print(f"no compiled decode step ({error}): on a CPU torch's products decode instead, slower", file=sys.stderr)


def set_threads(n_threads: int) -> None:
    """Threads of this process's tensor operations."""
    import torch

    torch.set_num_threads(n_threads)


def add_source_arguments(parser: argparse.ArgumentParser, folder: str, problems: int) -> None:
    """Model, folder, text or problems, seed and threads."""
    parser.add_argument("model", help="a name from `kvrepro list models`, or a folder")
    parser.add_argument("--out", type=Path, help=f"folder of the result (default: {folder}/ in the model's folder)")
    parser.add_argument("--text", type=Path, help="plain text file to run on (default: the tiny models' own replies)")
    parser.add_argument("--text-tokens", type=int, default=2048, help="the text is cut into pieces of so many tokens")
    parser.add_argument("--problems", type=int, default=problems, help="problems of the training split to reply to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)


def opened(args: argparse.Namespace, name: str) -> tuple[ModelEntry, Path, Any, Any]:
    """Entry of the model, where the learned part `name` goes, model and tokenizer.

    Raises:
        KvreproError: the model comes from the Hub, so it has no folder of its own, and no other is given.
    """
    from ..models.loading import load_model

    set_threads(args.threads)
    entry = model_entry(args.model)
    if args.out is None and not Path(entry.source).is_dir():
        raise KvreproError(f"model {entry.name!r} comes from {entry.source!r}, not from a folder: give --out FOLDER")
    return entry, args.out or Path(entry.source) / LEARNED[name].folder, *load_model(entry)


def collect(
    args: argparse.Namespace, entry: ModelEntry, model, tokenizer, split: str, n_problems: int
) -> tuple[list[Trace], dict[str, Any]]:
    """Sequences of one split, and where they are from for the card; of a text the last tenth is held out.

    Raises:
        KvreproError: sizes below what makes sense, an unreadable text, or a model without problems of its own.
    """
    from ..training.judge.sequences import problem_sequences, text_sequences

    if n_problems < 1 or args.text_tokens < 16:
        raise KvreproError(f"problems={n_problems}, --text-tokens {args.text_tokens}: at least 1 and 16")
    if args.text is None:
        found, counts = problem_sequences(entry, model, tokenizer, split, n_problems, args.seed)
        print(f"{split}: {counts}")
        return found, {"kind": "full-cache replies to generated problems", **counts}
    found, digest = text_sequences(tokenizer, args.text, args.text_tokens, split)
    source = {"kind": "text", "file": args.text.name, "sha256": digest, "piece_tokens": args.text_tokens}
    return found, {**source, "split": split}
