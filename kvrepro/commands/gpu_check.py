"""`kvrepro gpu-check`: check the kernels on a GPU, time them, and measure decoding in the shapes of real models."""

from __future__ import annotations

import argparse
import gc
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..methods.table import create_method
from ..runs.provenance import git_revision, package_versions

NAME = "gpu-check"
HELP = "check and time the kernels and decoding on a GPU, with random weights in the published shapes"

BUDGETS = (2500, 3000, 3500, 4000, 4500, 5000, 5500, 6000)
# the paper's local window, and its ratio per model (docs/budgets.md#published-settings)
WINDOW, RATIOS = 2000, {"r1-llama-8b": 0.3, "r1-qwen-7b": 0.4}
OTHER_METHODS, OTHER_BUDGET = ("window", "snapkv", "rkv", "h2o"), 5000
EVICT_EVERY, LONGEST = 128, 16384


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Folder, time limit, and what to leave out."""
    parser.add_argument("--out", required=True, type=Path, help="folder for the JSON file")
    parser.add_argument("--limit-s", type=float, default=450.0, help="start nothing new after this many seconds")
    parser.add_argument("--rows", type=int, default=20, help="batch size")
    parser.add_argument("--models", nargs="+", default=list(RATIOS), choices=list(RATIOS))
    parser.add_argument("--only", choices=("kernels", "decode"), help="one half of it")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the JSON as it grows and print a table; exit code 1 where a kernel is wrong.

    Raises:
        RunError: no GPU; nothing is measured elsewhere.
    """
    import torch

    if not torch.cuda.is_available():
        raise RunError(
            f"no GPU: torch {torch.__version__} sees no CUDA or ROCm device. This command measures nothing on a CPU; "
            "`make test` proves the kernels without a GPU and `kvrepro bench` times decoding on a CPU"
        )
    report = Report(args.out, args.limit_s)
    if args.only != "decode":
        _kernels(report)
    else:
        _copy_rate(report)
    if args.only != "kernels":
        for place, name in enumerate(args.models):
            report.share_time(len(args.models) - place)
            try:
                _decode(report, name, args.rows)
            except torch.cuda.OutOfMemoryError as error:
                # the weights themselves
                report.data["errors"].append({"name": "weights", "model": name, "why": str(error)[:2000]})
            free_memory()
    report.data["seconds"] = round(time.perf_counter() - report.started, 1)
    report.write()
    failed = [c["case"] for c in report.data["checks"] if not c["ok"]]
    for c in report.data["checks"]:
        if not c["ok"]:
            print(f"FAILED {c['stem']} {c['case']}: {c['errors']} limit {c['limit']} {c['failure']}")
    return {
        "file": str(report.path), "seconds": report.data["seconds"], "checks": len(report.data["checks"]),
        "failed": failed, "kernel_rows": len(report.data["kernels"]), "decode_rows": len(report.data["decode"]),
        "skipped": report.data["skipped"], "errors": report.data["errors"],
        "exit_code": 1 if failed or report.data["errors"] else 0,
    }  # fmt: skip


class Report:
    """The JSON under construction; written after every part, so that a killed run leaves what it had."""

    def __init__(self, folder: Path, limit_s: float):
        import torch

        self.started, self.limit_s, self.deadline = time.perf_counter(), limit_s, float("inf")
        gpu = torch.cuda.get_device_properties(0)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"gpu-check-{re.sub(r'[^a-z0-9]+', '-', gpu.name.lower()).strip('-')}-{stamp}.json"
        self.data: dict[str, Any] = {
            "device": {
                "name": gpu.name, "memory_bytes": gpu.total_memory, "processors": gpu.multi_processor_count,
                "cuda": torch.version.cuda, "hip": torch.version.hip, "clocks": clocks(),
            },
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "versions": package_versions(), "revision": git_revision(),
            "checks": [], "kernels": [], "decode": [], "skipped": [], "errors": [],
        }  # fmt: skip

    def write(self) -> None:
        """Replace the file."""
        self.path.write_text(json.dumps(self.data, indent=1) + "\n")

    def share_time(self, models_left: int) -> None:
        """Give the next model its part of what is left."""
        now = time.perf_counter()
        self.deadline = now + max(0.0, self.started + self.limit_s - now) / models_left

    def part(self, name: str, work: Callable[[], dict[str, Any]], **labels: Any) -> None:
        """One decode row; what did not fit or came too late is noted as skipped, a step that breaks as an error."""
        import torch

        from ..bench.gpu import TooLargeError

        if time.perf_counter() > self.deadline:
            why = f"out of time: the limit is {self.limit_s:.0f} s for everything"
            self.data["skipped"].append({"name": name, **labels, "why": why})
            return
        try:
            row = {"name": name, **labels, **work()}
            self.data["decode"].append(row)
            print(_line(row), flush=True)
        except torch.cuda.OutOfMemoryError:
            self.data["skipped"].append({"name": name, **labels, "why": "out of memory"})
            print(f"{name}: out of memory", flush=True)
        except TooLargeError as error:
            self.data["skipped"].append({"name": name, **labels, "why": str(error)})
            print(f"{name}: {error}", flush=True)
        except Exception as error:
            # whatever breaks (a kernel that does not compile, say) is recorded, and the other rows still run
            why = f"{type(error).__name__}: {error}"[:2000]
            self.data["errors"].append({"name": name, **labels, "why": why})
            print(f"{name}: {why}", flush=True)
        self.write()
        free_memory()


def free_memory() -> None:
    """Give what is no longer held back to the device; a device that has failed for good is left alone."""
    import torch

    gc.collect()
    try:
        torch.cuda.empty_cache()
    except RuntimeError as error:
        print(f"the device does not answer any more: {error}", flush=True)


def clocks() -> dict[str, str] | None:
    """Clocks, power limit and driver as nvidia-smi reports them; None without it or where it hangs."""
    fields = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit")
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:
        return None
    return dict(zip(fields, done.stdout.strip().split(", "), strict=False)) if done.returncode == 0 else None


def _copy_rate(report: Report) -> None:
    from ..kernels.bench import copy_rate

    report.data["copy_bytes_per_s"] = copy_rate()
    print(f"{report.data['device']['name']}: copy {report.data['copy_bytes_per_s'] / 1e9:.0f} GB/s", flush=True)


def _kernels(report: Report) -> None:
    """Checks on the device, then rows of the kernels that passed."""
    from dataclasses import asdict

    from ..kernels import bench

    results = bench.check_all()
    report.data["checks"] = [asdict(r) | {"ok": r.ok} for r in results]
    wrong = {r.stem for r in results if not r.ok}
    print(f"kernel checks: {sum(r.ok for r in results)} of {len(results)} passed", flush=True)
    _copy_rate(report)
    report.write()
    rows = bench.bench(
        copy=report.data["copy_bytes_per_s"], passed={r.stem for r in results} - wrong, failures=report.data["errors"]
    )  # fmt: skip
    report.data["kernels"] = [asdict(row) for row in rows]
    report.write()


def _decode(report: Report, name: str, rows: int, device: str = "cuda") -> None:
    """All decode rows of one model; what the bars are set on comes first, in case time runs out."""
    import torch

    from ..bench import gpu as measure
    from ..methods.learned.importance import ImportancePredictor, PredictorShape
    from ..models.random_weights import build, step_weight_bytes, true_shape

    torch.manual_seed(0)
    model = build(true_shape(name), device)
    weights, copy = step_weight_bytes(model), report.data["copy_bytes_per_s"]
    hidden = model.config.hidden_size
    predictor = ImportancePredictor(PredictorShape.published(hidden)).to(device, model.dtype).eval()
    labels = {"model": name}

    def budget(method: str, tokens: int, batch: int, decoder: str = "graph") -> dict[str, Any]:
        if method == "dynts":
            made = create_method(method, tokens, window=WINDOW, ratio=RATIOS[name], predictor=predictor)
        else:
            # R-KV's interval; the budget is what remains
            made = create_method(method, tokens, evict_every=EVICT_EVERY, protocol="fair")
        return measure.with_bound(measure.budget_row(model, made, batch, decoder=decoder), weights, copy)

    def full(batch: int) -> dict[str, Any]:
        row = measure.full_row(model, create_method("full"), batch, LONGEST)
        return measure.with_bound(row, weights, copy)

    first = (BUDGETS[0], OTHER_BUDGET)
    for tokens in (*first, *(b for b in BUDGETS if b not in first)):
        report.part(f"dynts C={tokens}", lambda n=tokens: budget("dynts", n, rows), method="dynts", **labels)
    report.part("full cache", lambda: full(rows), method="full", **labels)
    mean = sum(first) // 2
    report.part("eager concat", lambda: measure.eager_row(model, rows, [mean]), method="eager", **labels)
    report.part("generate sdpa", lambda: measure.generate_row(model, rows, [mean]), method="generate", **labels)
    largest = measure.largest_batch(model, BUDGETS[0] + 1)
    report.part(
        f"dynts C={BUDGETS[0]} B={largest}", lambda: budget("dynts", BUDGETS[0], largest), method="dynts", **labels
    )
    most = measure.largest_batch(model, LONGEST)
    report.part(f"full cache B={most}", lambda: full(most), method="full", **labels)
    for method in OTHER_METHODS:
        report.part(
            f"{method} C={OTHER_BUDGET}", lambda m=method: budget(m, OTHER_BUDGET, rows), method=method, **labels
        )
    report.part(
        f"dynts C={OTHER_BUDGET} eager step", lambda: budget("dynts", OTHER_BUDGET, rows, "fused"), method="dynts",
        **labels,
    )  # fmt: skip
    for length in (LONGEST // 4, LONGEST - 64):
        report.part(
            f"eager concat n={length}",
            lambda n=length: measure.eager_row(model, rows, [n], 4),
            method="eager",
            **labels,
        )
        report.part(
            f"generate sdpa n={length}", lambda n=length: measure.generate_row(model, rows, [n], 8), method="generate",
            **labels,
        )  # fmt: skip


def _line(row: dict[str, Any]) -> str:
    steps = ", ".join(f"{ms:.2f} ms at {n}" for n, ms in zip(row["step_lengths"], row["step_ms"], strict=True))
    bound = f" {row['fraction_of_bound']:6.1%} of bound" if "fraction_of_bound" in row else ""
    return f"{row['model']:12} {row['name']:24} B={row['rows']:<4} {row['decode_tps']:8.0f} tokens/s{bound}  ({steps})"
