"""Faults at random moments; by hand: `python -m tests.faults --trials 200 --seed 0`.

A line per trial, then a JSON object: how many trials of each kind, and what went wrong in them.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from .checks import CODE, COUNTS, LEFT, LOST, TWICE, UNFINISHED, WORDS
from .kinds import KINDS
from .lab import Lab, laboratory
from .processes import Server, server


def trial(name: str, folder: Path, running: Server, draw: random.Random) -> Lab:
    """One fault, and all that is promised after it."""
    with laboratory(folder, running, draw) as lab:
        try:
            KINDS[name](lab)
            if not lab.has_ended:
                lab.end()
        except Exception as error:
            # the other trials go on
            lab.say("trial", f"it ended early: {error!r}")
        return lab


def main() -> int:
    """Trials of kinds in a random order, each as often as the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), metavar="KIND", help="begin of a kind's name")
    args = parser.parse_args()
    # shells give background jobs an ignored SIGINT and `nohup` an ignored SIGHUP, and children would inherit both
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    draw = random.Random(args.seed)
    kinds = [name for name in KINDS if name.startswith(tuple(args.kinds))]
    names = [name for _ in range(-(-args.trials // len(kinds))) for name in draw.sample(kinds, len(kinds))]
    wrong = Counter(dict.fromkeys((LOST, TWICE, COUNTS, LEFT, CODE, WORDS, UNFINISHED), 0))
    failed: dict[str, list[int]] = {}
    tried: Counter[str] = Counter()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    print(f"folders of trials in which something went wrong stay in {folder}", flush=True)
    with server(folder) as running:
        for number, name in enumerate(names[: args.trials]):
            began = time.monotonic()
            lab = trial(name, folder / f"trial-{number}", running, random.Random(f"{args.seed} {number}"))
            tried[name] += 1
            wrong.update(kind for kind, _ in lab.wrong)
            if lab.wrong:
                failed.setdefault(name, []).append(number)
            row = {"trial": number, "kind": name, "s": round(time.monotonic() - began, 1), "wrong": lab.wrong}
            print(json.dumps(row), flush=True)
    print(json.dumps({"trials": sum(tried.values()), "wrong": wrong, "kinds": tried, "failed": failed}))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
