"""`kvrepro gpu-check`: check the kernels on a GPU, time them, and measure decoding in the shapes of real models."""

from __future__ import annotations

import argparse
import gc
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..bench.settings import PAPER_RATIOS
from ..errors import RunError
from ..files import write_json
from ..runs.provenance import git_revision, package_versions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Folder, time limit, and what to leave out."""
    parser.add_argument("--out", required=True, type=Path, help="folder for the JSON file")
    parser.add_argument("--limit-s", type=float, default=450.0, help="start nothing new after this many seconds")
    parser.add_argument("--rows", type=int, default=20, help="batch size")
    parser.add_argument("--models", nargs="+", default=list(PAPER_RATIOS), choices=list(PAPER_RATIOS))
    parser.add_argument("--only", choices=("kernels", "decode"), help="one half of it")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the JSON as it grows and print a table; exit code 1 where a kernel is wrong.

    Raises:
        RunError: no GPU; nothing is measured elsewhere.
    """
    import torch

    from ..bench.gpu import decode_rows

    if not torch.cuda.is_available():
        raise RunError(
            f"no GPU: torch {torch.__version__} sees no CUDA or ROCm device. This command measures nothing on a CPU; "
            "`make test` proves the kernels without a GPU and `kvrepro bench` times decoding on a CPU"
        )
    report = Report(args.out, args.limit_s)
    _kernels(report, only_copy=args.only == "decode")
    if args.only != "kernels":
        for place, name in enumerate(args.models):
            report.share_time(len(args.models) - place)
            try:
                decode_rows(name, args.rows, report.data["copy_bytes_per_s"], report.part)
            except torch.cuda.OutOfMemoryError as error:
                # the weights themselves
                report.data["errors"].append({"name": "weights", "model": name, "why": str(error)[:2000]})
            free_memory()
    report.data["seconds"] = round(time.perf_counter() - report.started, 1)
    report.write()
    failed = [c for c in report.data["checks"] if not c["ok"]]
    for c in failed:
        print(f"FAILED {c['stem']} {c['case']}: {c['errors']} limit {c['limit']} {c['failure']}")
    tables = {"checks": "checks", "kernel_rows": "kernels", "decode_rows": "decode"}
    counts = {name: len(report.data[table]) for name, table in tables.items()}
    same = {name: report.data[name] for name in ("seconds", "skipped", "errors")}
    exit_code = 1 if failed or report.data["errors"] else 0
    return {"file": str(report.path), "failed": [c["case"] for c in failed], **counts, **same, "exit_code": exit_code}


class Report:
    """The JSON under construction; written after every part, so that a killed run leaves what it had."""

    def __init__(self, folder: Path, limit_s: float):
        import torch

        self.started, self.limit_s, self.deadline = time.perf_counter(), limit_s, float("inf")
        gpu = torch.cuda.get_device_properties(0)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"gpu-check-{re.sub(r'[^a-z0-9]+', '-', gpu.name.lower()).strip('-')}-{stamp}.json"
        device = {"name": gpu.name, "memory_bytes": gpu.total_memory, "processors": gpu.multi_processor_count}
        device |= {"cuda": torch.version.cuda, "hip": torch.version.hip, "clocks": clocks()}
        self.data: dict[str, Any] = {"device": device, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        self.data |= {"versions": package_versions(), "revision": git_revision()}
        self.data |= {name: [] for name in ("checks", "kernels", "decode", "skipped", "errors")}

    def write(self) -> None:
        """Replace the file."""
        write_json(self.path, self.data)

    def share_time(self, models_left: int) -> None:
        """Give the next model its part of what is left."""
        now = time.perf_counter()
        self.deadline = now + max(0.0, self.started + self.limit_s - now) / models_left

    def part(self, name: str, work: Callable[[], dict[str, Any]], **labels: Any) -> None:
        """One decode row; what did not fit or came too late is noted as skipped, a step that breaks as an error."""
        import torch

        from ..bench.gpu import TooLargeError

        if time.perf_counter() > self.deadline:
            self._note("skipped", name, labels, f"out of time: the limit is {self.limit_s:.0f} s for everything")
            return
        try:
            row = {"name": name, **labels, **work()}
            self.data["decode"].append(row)
            print(_line(row), flush=True)
        except torch.cuda.OutOfMemoryError:
            self._note("skipped", name, labels, "out of memory")
        except TooLargeError as error:
            self._note("skipped", name, labels, str(error))
        except Exception as error:
            # whatever breaks (a kernel that does not compile, say) is recorded, and the other rows still run
            self._note("errors", name, labels, f"{type(error).__name__}: {error}"[:2000])
        self.write()
        free_memory()

    def _note(self, kind: str, name: str, labels: dict[str, Any], why: str) -> None:
        self.data[kind].append({"name": name, **labels, "why": why})
        print(f"{name}: {why}", flush=True)


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


def _kernels(report: Report, only_copy: bool) -> None:
    """The copy rate; beside it checks on the device, and rows of the kernels that passed."""
    from ..kernels import bench

    results = [] if only_copy else bench.check_all()
    report.data["checks"] = [asdict(r) | {"ok": r.ok} for r in results]
    if results:
        print(f"kernel checks: {sum(r.ok for r in results)} of {len(results)} passed", flush=True)
    report.data["copy_bytes_per_s"] = copy = bench.copy_rate()
    print(f"{report.data['device']['name']}: copy {copy / 1e9:.0f} GB/s", flush=True)
    report.write()
    if results:
        passed = {r.stem for r in results} - {r.stem for r in results if not r.ok}
        rows = bench.bench(copy=copy, passed=passed, failures=report.data["errors"])
        report.data["kernels"] = [asdict(row) for row in rows]
        report.write()


def _line(row: dict[str, Any]) -> str:
    steps = ", ".join(f"{ms:.2f} ms at {n}" for n, ms in zip(row["step_lengths"], row["step_ms"], strict=True))
    bound = f" {row['fraction_of_bound']:6.1%} of bound" if "fraction_of_bound" in row else ""
    return f"{row['model']:12} {row['name']:24} B={row['rows']:<4} {row['decode_tps']:8.0f} tokens/s{bound}  ({steps})"
