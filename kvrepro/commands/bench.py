"""`kvrepro bench`: decoding beside what users would otherwise run, or methods beside each other, in one run."""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ..bench.bench import run_bench
from ..bench.settings import VARIANTS, BenchSettings
from ..bench.table import Points, bars, confirmations, final_line, flatness, render, setting_rows
from ..errors import check_known
from ..files import write_json
from ..methods.table import METHODS, method_class
from ..models.shapes import bench_shape
from ..models.table import model_entry
from ..runs.provenance import git_revision, hardware, package_versions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to compare, sizes and repeats."""
    parser.add_argument("--model", help="whole replies of this model beside transformers.generate instead")
    parser.add_argument(
        "--methods", nargs="*", metavar="NAME", help="cost of these methods (none named: all) beside `window` instead"
    )
    parser.add_argument("--rows", type=int, nargs="+", help="batch sizes (default 8 1 32; with --model 32 64)")
    parser.add_argument("--new-tokens", type=int, help="tokens per row (default 2048; with --model 1536)")
    parser.add_argument("--budget", type=int, nargs="+", help="slots (default 256 512 1024; with --model 192)")
    parser.add_argument("--repeats", type=int, help="rounds (default 5; with --model or --methods 3)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of all sides")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=("wall", "cpu"),
        help="seconds of what: on a machine shared with other work take `cpu` with --threads 1",
    )
    parser.add_argument("--variants", nargs="+", help="some of the variants only")
    parser.add_argument("--long-tokens", type=int, default=8192, help="length to which the reply grows in one setting")
    parser.add_argument(
        "--confirm-tokens", type=int, default=512, help="tokens of the whole replies run for comparison, 0: none"
    )
    parser.add_argument("--steps", type=int, default=3, help="steps per stretch")
    parser.add_argument("--limit-s", type=float, default=840.0, help="start nothing new after this many seconds")
    parser.add_argument("--out", type=Path, help="folder for a JSON file with every measured point")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, print the table, return medians and ratios."""
    if args.model is not None or args.methods is not None:
        return _on_a_model(args)
    check_known("variant", VARIANTS, *(args.variants or ()))
    plan = _plan(args)
    print(
        f"135M Llama shape, random weights, {args.dtype}, {args.threads} threads, {args.clock} clock, prompt of "
        f"{plan.prompt} tokens, an eviction every {plan.evict_every}, medians of {plan.rounds} rounds",
        flush=True,
    )
    variants = tuple(args.variants or VARIANTS)
    data = run_bench(plan, bench_shape(), args.dtype, args.threads, variants, args.limit_s, partial(print, flush=True))
    report = make_report(data, plan, args)
    print(render(report))
    result = final_line(report["settings"]) | {"bars": report["bars"], "confirm": report["confirmed"]}
    result |= {name: data[name] for name in ("skipped", "seconds")}
    if args.out is None:
        return result
    file = _write(report, args.out)
    print(f"every measured point: {file}")
    return result | {"file": str(file)}


def _plan(args: argparse.Namespace) -> BenchSettings:
    default = BenchSettings()
    batches, budgets = tuple(args.rows or default.batches), tuple(args.budget or default.budgets)

    def among(wanted: int, known: tuple[int, ...]) -> int:
        return wanted if wanted in known else known[0]

    given = {name: getattr(args, name) for name in ("new_tokens", "long_tokens", "confirm_tokens", "steps", "clock")}
    given |= {"rounds": args.repeats, "batches": batches, "budgets": budgets}
    given |= {name: among(getattr(default, name), batches) for name in ("long_batch", "confirm_batch")}
    given |= {name: among(getattr(default, name), budgets) for name in ("long_budget", "confirm_budget")}
    return BenchSettings(**{name: value for name, value in given.items() if value is not None})


def make_report(data: dict[str, Any], plan: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Everything that the JSON file holds: device, versions, plan, points, and what follows from them."""
    config = bench_shape()
    bytes_per_slot = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    bytes_per_slot *= {"float32": 4, "bfloat16": 2}[args.dtype]
    points = Points(data, plan, args.clock)
    rows, flat = setting_rows(points, bytes_per_slot), flatness(points)
    return {
        "kind": "bench",
        "device": {**hardware("cpu"), "threads": args.threads},
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": package_versions(),
        "revision": git_revision(),
        "dtype": args.dtype,
        "clock": args.clock,
        "plan": asdict(plan),
        "bytes_per_slot": bytes_per_slot,
        "settings": rows,
        "flat": flat,
        "confirmed": confirmations(points, data["confirm"]),
        "bars": bars(rows, flat, plan),
        **data,
    }


def _write(report: dict[str, Any], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", report["device"]["cpu"].lower()).strip("-")
    path = folder / f"bench-{name}-{report['dtype']}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    write_json(path, report)
    return path


def _on_a_model(args: argparse.Namespace) -> dict[str, Any]:
    """Whole replies, or the cost of methods, on a model of the table."""
    import torch

    from ..bench.whole_replies import CostSetting, compare_replies, measure_costs
    from ..models.loading import load_model

    torch.set_num_threads(args.threads)
    name, repeats = args.model or "tiny-r1-llama", args.repeats or 3
    loaded = load_model(model_entry(name))
    labels = {"model": name, "threads": args.threads, "clock": args.clock}
    if args.methods is None:
        new_tokens, budget = args.new_tokens or 1536, (args.budget or [192])[0]
        print(f"{name}, {new_tokens} new tokens, {args.threads} threads, {args.clock} clock, median of {repeats}")
        rows = compare_replies(*loaded, args.rows or [32, 64], new_tokens, budget, repeats, clock=args.clock)
        return labels | {"new_tokens": new_tokens, "results": rows}
    names = args.methods or [n for n in METHODS if "trace" not in method_class(n).needs and n != "dynts_nolocal"]
    setting = CostSetting()
    rows = measure_costs(*loaded, names, setting, repeats, args.clock)
    print(f"{name}, {setting}, {args.threads} threads, {args.clock} clock, median of {repeats}")
    print(f"{'method':20} {'step ms':>8} {'to window':>10} {'evict %':>8} {'evict ms/row':>13} {'tokens/s':>9}")
    for row in rows:
        print(
            f"{row['method']:20} {row['step_ms']:8.2f} {row['step_ratio']:9.2f}x {100 * row['evict_share']:7.1f}% "
            f"{row['evict_ms']:13.3f} {row['decode_tps']:9.0f}"
        )
    return labels | {"setting": asdict(setting), "methods": rows}
