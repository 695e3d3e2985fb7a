"""`kvrepro compare`: methods at equal budget on the same problems, in one command; one of them may be your own."""

from __future__ import annotations

import argparse
from typing import Any

import yaml

from ..errors import KvreproError
from ..runs.comparisons import write_comparison
from ..runs.profiles import Profile
from .printing import print_table
from .running import GridOptions, run_grid


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The methods, what they run on, and the sizes that all of them share."""
    what = (
        "a name from `kvrepro list methods`, a class of your own as FILE.py:CLASS, or an entry of a profile's `methods`"
    )
    parser.add_argument("methods", nargs="+", metavar="METHOD", help=f"{what}; the first is compared with the others")
    parser.add_argument("--model", default="tiny-r1-llama", help="a name or a folder (default: %(default)s)")
    parser.add_argument("--benchmark", default="chain-12", help="default: %(default)s")
    budget = "slots that remain after an eviction, of every method; several make several comparisons"
    parser.add_argument("--budget", type=int, nargs="+", default=[176], metavar="N", help=f"{budget} (default: 176)")
    parser.add_argument("--window", type=int, help="slots of the local window (default: 40 %% of the budget)")
    parser.add_argument("--evict-every", type=int, help="tokens between evictions (default: an eighth of the budget)")
    parser.add_argument("--n-problems", type=int, help="the first so many problems (default: all)")
    parser.add_argument("--n-samples", type=int, help="replies per problem (default: 1)")
    parser.add_argument("--max-new-tokens", type=int, help="limit of a reply (default: 1024)")
    parser.add_argument("--batch-rows", type=int, help="rows decoded together (default: 64)")
    parser.add_argument("--seed", type=int, help="of sampling and eviction noise (default: 42)")
    parser.add_argument("--cores", type=int, help="cells side by side (default: as many as there are cores)")
    dry = "show what would run and write nothing"
    parser.add_argument("--dry-run", action="store_true", help=dry)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the comparison's profile, run its grid, and say what came out; or show its cells.

    Raises:
        KvreproError: nothing was started: a method, a budget or sizes that cannot be.
        RunError: the grid itself failed.
    """
    profile = write_comparison(
        [_entry(text) for text in args.methods],
        args.model,
        args.benchmark,
        args.budget,
        window=args.window,
        evict_every=args.evict_every,
        n_problems=args.n_problems,
        n_samples=args.n_samples,
        max_new_tokens=args.max_new_tokens,
        batch_rows=args.batch_rows,
        seed=args.seed,
        write=not args.dry_run,
    )
    if args.dry_run:
        return _shown(profile)
    return {**run_grid(profile, GridOptions(cores=args.cores)), **_told(profile)}


def _shown(profile: Profile) -> dict[str, Any]:
    """What would run; a grid's own `--dry-run` needs the profile's file."""
    states = [folder.state for folder in profile.folders]
    print(f"{profile.name}: {len(states)} cells, {len(states) - states.count('done')} to run; nothing was written")
    print_table({"state": state, "cell": c.cell_id} for state, c in zip(states, profile.cells, strict=True))
    return {"profile": profile.name, "cells": len(states)}


def _entry(text: str) -> Any:
    """A method as given; a mapping, such as `{method: h2o, options: {pin_question: true}}`, as YAML says it."""
    if not text.startswith("{"):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise KvreproError(f"{text}: not valid YAML: {' '.join(str(error).split())}") from error


def _told(profile: Profile) -> dict[str, Any]:
    """The table and the sentences, printed and as JSON takes them."""
    from ..analysis.comparison import Comparison

    rows, lines = [], []
    if not any(folder.is_complete for folder in profile.folders):
        return {"table": rows, "sentences": lines}
    for found in Comparison.of(profile):
        mine = found.table.astype(object).where(found.table.notna(), None).to_dict("records")
        print(
            f"\n{found.model}, {found.benchmark}: {found.n_problems} problems x {mine[0]['n_samples']}, the same for "
            "every method; the budget is what remains after an eviction"
        )
        if found.sizes:
            print(found.sizes)
        print_table(found.shown.to_dict("records"))
        print(
            "Pass@1 in percent, differences in points, brackets 95 % by problem, p Holm-adjusted within the column; "
            "tokens/s of the run, with what ran beside it"
        )
        print(*found.sentences, sep="\n")
        rows += mine
        lines += found.sentences
    folder = profile.folders[0].root
    print(f"page: {folder / 'index.html'}\nnotebook: {folder / (profile.notebook + '.ipynb')}")
    return {"table": rows, "sentences": lines, "notebook": str(folder / f"{profile.notebook}.ipynb")}
