"""`kvrepro list`: what there is to choose from."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from ..benchmarks.table import benchmark_entry, benchmark_names
from ..methods.table import METHODS, method_class
from ..models.table import model_table
from ..runs.profiles import load_profile, profile_names
from .printing import print_table

KINDS = ("models", "benchmarks", "methods", "profiles")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`kind`, and the form of the table."""
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, as in docs/reference.md")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print a table and return its rows."""
    rows = globals()[f"_{args.kind}"]()
    if args.markdown:
        print(markdown_table(rows))
        return {args.kind: rows}
    print_table(rows)
    return {args.kind: rows}


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table with the keys as head."""
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    for row in rows:
        values = [f"`{row[key]}`" if key == "name" else str(row[key]).replace("|", "\\|") for key in head]
        lines.append("| " + " | ".join(values) + " |")
    return "\n".join(lines)


def _models() -> list[dict[str, Any]]:
    names = ("name", "title", "dtype", "think_end", "source", "revision")
    return [{name: getattr(entry, name) for name in names} for entry in model_table().values()]


def _benchmarks() -> list[dict[str, Any]]:
    names = ("name", "kind", "n_problems", "source")
    return [{name: getattr(benchmark_entry(b), name) for name in names} for b in benchmark_names()]


def _methods() -> list[dict[str, Any]]:
    rows = []
    for name in METHODS:
        cls = method_class(name)
        switches = {f.name: f.default for f in fields(cls)}
        pinned = [what for what in ("question", "answer") if switches[f"pin_{what}"]]
        sinks = [f"{switches['sinks']} sinks"] if switches["sinks"] else []
        rows.append(
            {
                "name": name,
                "never evicted": ", ".join([*sinks, *pinned]) or "-",
                "granularity": switches["granularity"],
                "state": cls.state,
                "needs": ", ".join(cls.needs) or "-",
                "attention": cls.attention,
                "source": cls.source,
            }
        )
    return rows


def _profiles() -> list[dict[str, Any]]:
    profiles = [load_profile(name) for name in profile_names()]
    return [{"name": p.name, "cells": len(p.cells), "title": p.title} for p in profiles]
