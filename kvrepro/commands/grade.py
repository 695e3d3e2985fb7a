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
from ..graders.grading import equivalence
from ..runs import grading


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
    from ..scores.metrics import metric_rows, summarise

    found = grading.stored_replies(path)
    kind = args.kind or found.kind
    if kind not in KINDS:
        raise KvreproError(f"{path}: no manifest beside it names a benchmark; say --kind ({', '.join(KINDS)})")
    print(f"grading {len(found.rows)} records of {path}", file=sys.stderr)
    if reason := found.without_options:
        print(f"graded without the options' texts: a reply that names no letter is wrong ({reason})", file=sys.stderr)
    graded = grading.regrade(found.rows, kind, args.grader, args.workers, found.options)
    written = path.with_name(f"{path.stem}.{args.grader}{path.suffix}")
    write_rows(written, graded)
    score = summarise(graded)
    changed = sum(bool(old.get("correct")) != new["correct"] for old, new in zip(found.rows, graded, strict=True))
    statuses = dict(Counter(row["status"] for row in graded))
    names = [found.config.get(name) for name in ("model", "benchmark", "method", "budget")]
    cell = " ".join(str(name) for name in names if name is not None)
    print(
        f"{cell or path}: pass@1 {100 * score.pass_at_1:.1f} [{100 * score.pass_at_1_lo:.1f}, "
        f"{100 * score.pass_at_1_hi:.1f}] (n={score.n_problems}, k={score.n_samples}), answered "
        f"{100 * score.answered_share:.1f} %, truncated {100 * score.truncated_share:.1f} %, "
        f"{changed} verdicts changed, status {statuses}; in {written}"
    )
    shown = ("n_problems", "n_samples", "pass_at_1", "pass_at_1_lo", "pass_at_1_hi")
    result = {"written": str(written), "kind": kind, **{name: getattr(score, name) for name in shown}}
    result |= {"changed": changed, "status": statuses}
    if args.metrics:
        result["metrics"] = metric_rows(graded, equivalence(kind))
        for row in result["metrics"]:
            interval = f"{100 * row['score']:.1f} [{100 * row['lo']:.1f}, {100 * row['hi']:.1f}]"
            print(f"  {row['metric']}: {interval} (n={row['n']}, k={row['k']})")
    return result
