"""`kvrepro power`: how many samples or problems a difference of x points needs."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import KvreproError
from ..runs.folder import read_records


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The difference, the benchmark's size, and what is assumed or measured about the spread."""
    parser.add_argument("points", type=float, help="difference in points of pass@1 (2.6 is the paper's headline)")
    parser.add_argument("--problems", type=int, default=30, help="problems of the benchmark (AIME: 30)")
    parser.add_argument("--samples", type=int, default=5, help="samples per problem")
    parser.add_argument("--score", type=float, default=50.0, help="pass@1 of the methods, in points")
    spread = "standard deviation over problems of the chance to be right"
    parser.add_argument("--spread", type=float, default=0.35, help=spread)
    parser.add_argument("--agreement", type=float, default=0.9, help="correlation of the two methods over problems")
    parser.add_argument("--power", type=float, default=0.8, help="wanted chance to find the difference")
    parser.add_argument("--alpha", type=float, default=0.05, help="level of the two-sided test")
    records = "two graded records.jsonl files of the same problems: measure the spread"
    parser.add_argument("--records", nargs=2, metavar="RECORDS", help=records)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print what the design can see and what the difference would need."""
    from ..scores.power import assumed_model, estimated_model

    if args.records:
        model = estimated_model(*_matrices(args.records))
    else:
        model = assumed_model(args.score / 100, args.spread, args.agreement)
    difference, design = args.points / 100, (args.problems, args.samples)
    result = {
        "points": args.points,
        "n_problems": args.problems,
        "n_samples": args.samples,
        "stderr_points": round(100 * model.stderr(*design), 2),
        "power": round(model.power(difference, *design, args.alpha), 3),
        "detectable_points": round(100 * model.detectable(*design, args.power, args.alpha), 2),
        "samples_needed": model.samples_needed(difference, args.problems, args.power, args.alpha),
        "problems_needed": model.problems_needed(difference, args.samples, args.power, args.alpha),
        "between": round(model.between, 5),
        "within": round(model.within, 5),
        "spread_from": "records" if args.records else "assumptions",
    }
    enough = result["samples_needed"] or "no number is enough: more problems"
    print(f"{args.problems} problems x {args.samples} samples, two methods paired on the same problems:")
    print(f"  standard error of the difference {result['stderr_points']} points")
    print(f"  chance to find {args.points:g} points: {100 * result['power']:.0f} %")
    print(f"  found with {100 * args.power:.0f} % chance: {result['detectable_points']} points and more")
    print(f"  samples per problem for {args.points:g} points: {enough}")
    print(f"  problems for {args.points:g} points at {args.samples} samples: {result['problems_needed']}")
    print(f"  variance between problems {result['between']}, within {result['within']}, from {result['spread_from']}")
    return result


def _matrices(paths: list[str]) -> tuple[Any, Any]:
    from ..scores.metrics import group_by_problem

    first, second = (group_by_problem(read_records(path)) for path in paths)
    if set(first) != set(second):
        raise KvreproError(f"{paths[0]} and {paths[1]} are of different problems; give two cells of one benchmark")
    order = sorted(first)
    return tuple([[bool(r["correct"]) for r in group[name]] for name in order] for group in (first, second))
