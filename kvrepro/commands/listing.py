"""`kvrepro list`: what there is to choose from."""

from __future__ import annotations

import argparse
from typing import Any

NAME = "list"
HELP = "list models, benchmarks, methods or profiles"
KINDS = ("models", "benchmarks", "methods", "profiles")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`kind`."""
    parser.add_argument("kind", choices=KINDS)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print a table and return its rows."""
    rows = globals()[f"_{args.kind}"]()
    widths = {key: max(len(str(row[key])) for row in rows) for key in rows[0]} if rows else {}
    for row in rows:
        print("  ".join(str(row[key]).ljust(width) for key, width in widths.items()).rstrip())
    return {args.kind: rows}


def _models() -> list[dict[str, Any]]:
    from ..models import MODELS

    return [{"name": e.name, "title": e.title, "source": e.source, "dtype": e.dtype} for e in MODELS.values()]


def _benchmarks() -> list[dict[str, Any]]:
    from ..benchmarks import benchmark_entry, benchmark_names

    entries = [benchmark_entry(name) for name in benchmark_names()]
    return [{"name": e.name, "kind": e.kind, "n_problems": e.n_problems, "source": e.source} for e in entries]


def _methods() -> list[dict[str, Any]]:
    from ..methods import METHODS, method_class

    classes = [method_class(name) for name in METHODS]
    return [
        {
            "name": c.name,
            "granularity": c.granularity,
            "state": c.state,
            "needs": ", ".join(c.needs) or "-",
            "attention": c.attention,
            "source": c.source,
        }
        for c in classes
    ]


def _profiles() -> list[dict[str, Any]]:
    from ..profiles import load_profile, profile_names

    profiles = [load_profile(name) for name in profile_names()]
    return [{"name": p.name, "cells": len(p.cells), "title": p.title} for p in profiles]
