"""`kvrepro gpu-check`: is the GPU path right, and how fast is it beside what users would otherwise run."""

from __future__ import annotations

import argparse
import os
import re
import time
from pathlib import Path
from typing import Any

from ..bench.gpu.clocks import clocks
from ..bench.gpu.plan import FIRST_S, PARTS, Settings, chosen_parts, stages
from ..bench.gpu.report import Report
from ..bench.gpu.supervisor import Supervisor
from ..bench.gpu.verdict import failed_parts, lines, uncaptured, verdict, wrong
from ..bench.settings import PAPER_RATIOS
from ..errors import RunError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Folder, time limit, and what to leave out; the device and the small sizes are for tests."""
    parser.add_argument("--out", required=True, type=Path, help="folder for the JSON file")
    parser.add_argument("--limit-s", type=float, default=540.0, help="end after this many seconds, whatever is left")
    parser.add_argument("--rows", type=int, default=20, help="batch size")
    parser.add_argument("--models", nargs="+", default=list(PAPER_RATIOS), choices=list(PAPER_RATIOS))
    parser.add_argument("--only", nargs="+", choices=list(PARTS), help="these parts, and what they need")
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--small", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the parts, print their rows and the bars; exit code 1 where something is wrong, broke or was not captured.

    Raises:
        RunError: no GPU; nothing is measured elsewhere.
    """
    import torch

    from ..kernels.checks import STEMS

    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise RunError(
            f"no GPU: torch {torch.__version__} sees no CUDA or ROCm device. This command measures nothing on a CPU; "
            "`make test` proves the kernels without a GPU and `kvrepro bench` times decoding on a CPU"
        )
    started = time.time()
    settings = Settings(tuple(args.models), args.rows, args.device, args.small)
    device = device_row(args.device)
    stem = f"gpu-check-{re.sub(r'[^a-z0-9]+', '-', device['name'].lower()).strip('-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    args.out.mkdir(parents=True, exist_ok=True)
    report = Report(args.out / f"{stem}.json", settings, device)
    supervisor = Supervisor(report, args.out / stem, settings)
    planned = list(stages(chosen_parts(args.only), settings, STEMS))
    following = [units for _, units in planned[1:]] + [[]]
    with supervisor:
        for (is_first, units), after in zip(planned, following, strict=True):
            supervisor.run(units, started + min(args.limit_s, FIRST_S if is_first else args.limit_s), after)
    data = report.data
    report.close(seconds=round(time.time() - started, 1), verdict=verdict(data))
    print("\n".join(lines(data["verdict"])), flush=True)
    broken = {"wrong": wrong(data), "uncaptured": uncaptured(data), "failed_parts": failed_parts(data)}
    errors = [{key: e[key] for key in e if key != "trace"} for e in data["errors"]]
    return {
        "file": str(report.path),
        **broken,
        "rows": {name: len(data[name]) for name in ("correct", "decode", "products", "checks", "kernels")},
        "seconds": data["seconds"],
        "verdict": data["verdict"],
        "skipped": data["skipped"],
        "errors": errors,
        "exit_code": 1 if errors or any(broken.values()) else 0,
    }


def device_row(device: str) -> dict[str, Any]:
    """Name, memory, processors, versions and clocks."""
    import torch

    if not device.startswith("cuda"):
        return {"name": device, "processors": os.cpu_count(), "clocks": clocks()}
    gpu = torch.cuda.get_device_properties(0)
    row = {"name": gpu.name, "memory_bytes": gpu.total_memory, "processors": gpu.multi_processor_count}
    return row | {"cuda": torch.version.cuda, "hip": torch.version.hip, "clocks": clocks()}
