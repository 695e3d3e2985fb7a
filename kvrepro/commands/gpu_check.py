"""`kvrepro gpu-check`: is the GPU path right, and how fast is it beside what users would otherwise run."""

from __future__ import annotations

import argparse
import os
import re
import time
from pathlib import Path
from typing import Any

from ..bench.gpu.clocks import clocks, other_processes
from ..bench.gpu.plan import FIRST_S, GROUPS, PARTS, Settings, chosen_parts, stages
from ..bench.gpu.report import Report
from ..bench.gpu.supervisor import Supervisor
from ..bench.gpu.verdict import conclusion, lines, verdict
from ..bench.settings import PAPER_RATIOS, PAPER_ROWS
from ..errors import RunError

# lets cuBLAS round float32 products, which are then no longer those of a CPU
TF32 = "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Folder, time limit, and what to leave out; the device and the small sizes are for tests."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parts = "\n".join(f"  {name:14} {text} (at most {seconds} s a process)" for name, (seconds, text) in PARTS.items())
    parser.epilog = f"parts, in their order:\n{parts}\n\nexit code 0: the last line says RIGHT"
    parser.add_argument("--out", required=True, type=Path, help="folder for the JSON file")
    seconds = "end after this many seconds, whatever is left (default: %(default).0f)"
    parser.add_argument("--limit-s", type=float, default=540.0, help=seconds)
    parser.add_argument("--rows", type=int, default=PAPER_ROWS, help="batch size (default: %(default)s)")
    models = list(PAPER_RATIOS)
    parser.add_argument("--models", nargs="+", default=models, choices=models, help="shapes (default: all)")
    parts = [*PARTS, *GROUPS]
    parser.add_argument("--only", nargs="+", choices=parts, help="these parts, and what they need (default: all)")
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--small", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the parts, print their rows and the verdict; exit code 1 unless its last line says `RIGHT`.

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
    print("device: " + ", ".join(f"{key} {value}" for key, value in device.items()), flush=True)
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
    report.close(seconds=round(time.time() - started, 1), verdict=verdict(data), conclusion=conclusion(data))
    print(*lines(data["verdict"]), f"{data['conclusion']}. Everything: {report.path}", sep="\n", flush=True)
    return {
        "file": str(report.path),
        "conclusion": data["conclusion"],
        "rows": {name: len(data[name]) for name in ("correct", "decode", "products", "checks", "kernels")},
        "seconds": data["seconds"],
        "verdict": data["verdict"],
        "skipped": data["skipped"],
        "errors": [{key: e[key] for key in e if key != "trace"} for e in data["errors"]],
        "exit_code": 0 if data["conclusion"].startswith("RIGHT") else 1,
    }


def device_row(device: str) -> dict[str, Any]:
    """Name, memory, processors, versions, clocks, what may round float32 products, and memory of other processes."""
    import torch

    row = {"name": device, "processors": os.cpu_count(), "clocks": clocks(), "other_processes": other_processes()}
    if not device.startswith("cuda"):
        return row
    gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
    row |= {"name": gpu.name, "memory_bytes": gpu.total_memory, "processors": gpu.multi_processor_count}
    row |= {"allow_tf32": torch.backends.cuda.matmul.allow_tf32, TF32: os.environ.get(TF32)}
    return row | {"cuda": torch.version.cuda, "hip": torch.version.hip}
