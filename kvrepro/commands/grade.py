"""`kvrepro grade`: grade stored records again, without a model, beside the originals."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import KvreproError
from ..files import write_rows
from ..graders import GRADERS, KINDS
from ..graders.equivalence import equivalence
from ..runs import grading
from ..scores.metrics import metric_rows, summarise


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Records, grader, answer kind, workers."""
    parser.add_argument("records", help="a records.jsonl, or a folder: every records.jsonl below it")
    parser.add_argument("--grader", choices=GRADERS, default="strict")
    kind = "answer kind; default: of the benchmark in the manifest beside the file"
    parser.add_argument("--kind", choices=KINDS, help=kind)
    parser.add_argument("--metrics", action="store_true", help="also pass@k, maj@k and DynTS' major, with intervals")
    parser.add_argument("--workers", type=int, default=2, help="worker processes")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write one file per records file; print each cell's score before and after."""
    if args.workers < 1:
        raise KvreproError(f"--workers={args.workers}; expected at least 1")
    cells = [_grade_file(path, args) for path in grading.find_records(args.records)]
    return {"grader": args.grader, "cells": cells}


def _grade_file(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    rows = grading.read_records(path)
    kind = args.kind or grading.kind_beside(path) or rows[0].get("kind")
    if kind not in KINDS:
        raise KvreproError(f"{path}: no manifest beside it names a benchmark; say --kind ({', '.join(KINDS)})")
    print(f"grading {len(rows)} records of {path}", file=sys.stderr)
    options, missing = grading.options_of(path, rows)
    if missing:
        print(f"graded without the options' texts: a reply that names no letter is wrong ({missing})", file=sys.stderr)
    graded = grading.regrade(rows, kind, args.grader, args.workers, options)
    written = grading.beside(path, args.grader)
    write_rows(written, graded)
    score = summarise(graded)
    changed = sum(bool(old.get("correct")) != new["correct"] for old, new in zip(rows, graded, strict=True))
    statuses = dict(Counter(row["status"] for row in graded))
    print(
        f"{'/'.join(written.parts[-4:])}: pass@1 {100 * score.pass_at_1:.1f} [{100 * score.pass_at_1_lo:.1f}, "
        f"{100 * score.pass_at_1_hi:.1f}] (n={score.n_problems}, k={score.n_samples}), answered "
        f"{100 * score.answered_share:.1f} %, truncated {100 * score.truncated_share:.1f} %, "
        f"{changed} verdicts changed, status {statuses}"
    )
    names = ("n_problems", "n_samples", "pass_at_1", "pass_at_1_lo", "pass_at_1_hi")
    cell = {"written": str(written), "kind": kind, **{name: getattr(score, name) for name in names}}
    cell |= {"changed": changed, "status": statuses}
    if args.metrics:
        cell["metrics"] = metric_rows(graded, equivalence(kind))
        for row in cell["metrics"]:
            shown = f"{100 * row['score']:.1f} [{100 * row['lo']:.1f}, {100 * row['hi']:.1f}]"
            print(f"  {row['metric']}: {shown} (n={row['n']}, k={row['k']})")
    return cell
