"""What commands share that measure or train on sequences: their arguments, and where their results belong."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import KvreproError

if TYPE_CHECKING:
    from ..models.table import ModelEntry
    from ..training.judge.sequences import TokenSequence


def add_source_arguments(parser: argparse.ArgumentParser, folder: str, problems: int) -> None:
    """Model, folder, text or problems, seed and threads."""
    parser.add_argument("model", help="a name from `kvrepro list models`, or a folder")
    parser.add_argument("--out", type=Path, help=f"folder of the result (default: {folder}/ in the model's folder)")
    parser.add_argument("--text", type=Path, help="plain text file to run on (default: the tiny models' own replies)")
    parser.add_argument("--text-tokens", type=int, default=2048, help="the text is cut into pieces of so many tokens")
    parser.add_argument("--problems", type=int, default=problems, help="problems of the training split to reply to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)


def asset_home(entry: ModelEntry) -> Path:
    """The model's own folder.

    Raises:
        KvreproError: the model comes from the Hub and has none.
    """
    home = Path(entry.source)
    if not home.is_dir():
        raise KvreproError(f"model {entry.name!r} comes from {entry.source!r}, not from a folder: give --out FOLDER")
    return home


def collect(
    args: argparse.Namespace, entry: ModelEntry, model, tokenizer, split: str, n_problems: int
) -> tuple[list[TokenSequence], dict[str, Any]]:
    """Sequences of one split, and where they are from for the card; of a text the last tenth is held out.

    Raises:
        KvreproError: sizes below what makes sense, an unreadable text, or a model without problems of its own.
    """
    from ..training.judge.sequences import PROBLEM_SIZES, problem_sequences, text_sequences

    if n_problems < 1 or args.text_tokens < 16:
        raise KvreproError(f"problems={n_problems}, --text-tokens {args.text_tokens}: at least 1 and 16")
    if args.text is None:
        found, counts = problem_sequences(entry, model, tokenizer, split, n_problems, PROBLEM_SIZES, args.seed)
        print(f"{split}: {counts}")
        return found, {"kind": "full-cache replies to generated problems", "sizes": PROBLEM_SIZES, **counts}
    found, digest = text_sequences(tokenizer, args.text, args.text_tokens, split)
    source = {"kind": "text", "file": args.text.name, "sha256": digest, "piece_tokens": args.text_tokens}
    return found, {**source, "split": split}
