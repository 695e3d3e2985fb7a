"""`kvrepro summary`: the tidy table, the figures' notebook and the index page of a profile."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..errors import KvreproError
from ..runs.profiles import load_profile
from .printing import by_panel, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The profile, how many replies its page shows as pictures, and where everything goes."""
    parser.add_argument("profile")
    pictures = (
        "replies per model and method whose evictions the page shows at once; they are generated again for it "
        "(default: 2 where replies are short, 0 elsewhere)"
    )
    parser.add_argument("--pictures", type=int, metavar="N", help=pictures)
    out = "write into this folder and leave the results as they are, which may be read-only then"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=out)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Draw from what is finished; missing cells are drawn as missing."""
    from ..pages.report import write_report

    if args.pictures is not None and args.pictures < 0:
        raise KvreproError(f"--pictures={args.pictures}: a number of replies, 0 for none")
    profile = load_profile(args.profile)
    for folder in profile.folders:
        if damage := folder.damage:
            print(f"{folder.cell_id} counts as missing: {damage}; run the grid again", file=sys.stderr)
    report = write_report(profile, args.pictures, args.out and args.out.expanduser().resolve())
    print_table(by_panel(report.frame))
    print(*report.verdict, f"open {report.index}", sep="\n")
    return {
        "profile": profile.name,
        "cells": len(report.frame),
        "of": len(profile.cells),
        "index": str(report.index),
        "verdict": report.verdict,
        "pictures": report.n_pictures,
    }
