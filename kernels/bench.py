"""Times the kernels on a GPU: `python -m kvrepro.kernels.bench [--out FILE.csv]`.

A row is written only for a kernel whose checks passed on this device in the same run. Kernels are timed inside a CUDA
graph, so that launches do not count; the level-2 cache is filled with something else before every repeat.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields

import torch

from . import checks
from .bench_cases import CASES
from .launch import triton_version

# more than any level-2 cache of these devices
FLUSH_BYTES = 256 * 2**20
COPY_BYTES = 2**30
# events resolve half a microsecond or so: of a kernel below this, one graph holds so many launches
TINY_MS, TINY_LAUNCHES = 0.05, 20


@dataclass(frozen=True)
class Row:
    """One timing: milliseconds of one launch, of which a graph holds `launches`.

    `fraction_of_copy` is achieved bandwidth over that of a device-to-device copy in the same run, None without one.
    """

    kernel: str
    case: str
    provider: str
    ms_p20: float
    ms_p50: float
    ms_p80: float
    bytes: int
    gb_per_s: float
    fraction_of_copy: float | None
    graph: bool
    launches: int
    gpu: str
    torch: str
    triton: str | None
    time: str


def require_cuda() -> None:
    """Refuse to invent numbers.

    Raises:
        RuntimeError: there is no CUDA or ROCm device.
    """
    if not torch.cuda.is_available():
        raise RuntimeError(
            f"no GPU: torch {torch.__version__} sees no CUDA or ROCm device; kernels are timed on a GPU only"
        )


# captures in and out of inference mode do not go together in one process, and a decode step's are in it
@torch.inference_mode()
def time_ms(
    run: Callable[[], object],
    *,
    capture: bool,
    launches: int = 1,
    repeats: int = 20,
    budget_s: float = 1.0,
    device: str = "cuda",
) -> list[float]:
    """Milliseconds of `run` on the device per repeat, captured in a CUDA graph or launch by launch.

    Args:
        launches: calls in a row that one repeat holds; its time is divided by their number.
        device: on a CPU nothing can be captured, and the times only show that the code runs.
    """
    if not device.startswith("cuda"):
        return [_host_ms(run) for _ in range(3)]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.synchronize()

    def several() -> None:
        for _ in range(launches):
            run()

    play = several
    if capture:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            several()
        play = graph.replay
    flush = torch.zeros(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    found, started = [], time.perf_counter()
    for _ in range(repeats):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # read, not written: lines that have to be written back would count against what comes next
        flush.amax()
        before.record()
        play()
        after.record()
        torch.cuda.synchronize()
        found.append(before.elapsed_time(after) / launches)
        if len(found) >= 3 and time.perf_counter() - started > budget_s:
            break
    return found


def _host_ms(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - started)


def copy_rate() -> float:
    """Bytes per second of a device-to-device copy, read and write both counted."""
    source = torch.empty(COPY_BYTES, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    times = time_ms(lambda: target.copy_(source), capture=True)
    return 2 * COPY_BYTES / (statistics.median(times) / 1e3)


def providers(kernel: str, label: str) -> list[str]:
    """What one case is timed with: ours, its torch twin, and library kernels for the same work."""
    return ["triton", "torch", *CASES[kernel, label]("meta").others]


def bench(
    kernels: tuple[str, ...] = checks.STEMS, *, copy: float, passed: set[str], failures: list[dict[str, str]]
) -> list[Row]:
    """Rows of the named kernels; those not in `passed` are left out, and what breaks is added to `failures`."""
    rows = []
    for kernel, label in CASES:
        if kernel not in kernels or kernel not in passed:
            continue
        for provider in providers(kernel, label):
            try:
                row = time_case(kernel, label, provider, copy)
            except torch.cuda.OutOfMemoryError:
                # the references hold float32 copies; that they do not fit is no reason to lose the kernel's row
                print(f"  {kernel} {label} {provider}: out of memory, no row", file=sys.stderr)
            except Exception as error:
                # one provider that cannot run here leaves the others their rows
                why = f"{type(error).__name__}: {error}"[:2000]
                failures.append({"name": f"{kernel} {label} {provider}", "why": why})
                print(f"  {kernel} {label} {provider}: {why}", file=sys.stderr)
            else:
                rows.append(row)
                print(
                    f"{kernel:17} {label:38} {provider:7} {row.ms_p50:9.4f} ms {row.gb_per_s:8.0f} GB/s "
                    f"{row.fraction_of_copy:6.1%} of copy{'' if row.graph else '  (with launch time)'}",
                    flush=True,
                )
            torch.cuda.empty_cache()
    return rows


def time_case(kernel: str, label: str, provider: str, copy: float | None, device: str = "cuda") -> Row:
    """One row, its inputs made anew.

    Args:
        copy: bytes per second of a copy; None where it is not known.
        device: on a CPU the kernel is its torch twin.
    """
    prepared, on_gpu = CASES[kernel, label](device), device.startswith("cuda")
    ours = "triton" if on_gpu else "reference"
    own = {"triton": lambda: prepared.run(ours), "torch": lambda: prepared.run("reference")}
    run = (own | prepared.others)[provider]
    # torch twins may read the device, which no capture allows; their rows include the launches
    captured, launches = on_gpu and provider != "torch", 1
    times = time_ms(run, capture=captured, device=device)
    if captured and statistics.median(times) < TINY_MS:
        # the inputs of all but the first launch may lie in the level-2 cache, as in a decode step they do
        launches = TINY_LAUNCHES
        times = time_ms(run, capture=captured, launches=launches, device=device)
    rate, cuts = prepared.bytes / (statistics.median(times) / 1e3), statistics.quantiles(times, n=5)
    return Row(
        kernel,
        label,
        provider,
        cuts[0],
        statistics.median(times),
        cuts[-1],
        prepared.bytes,
        rate / 1e9,
        None if copy is None else rate / copy,
        captured,
        launches,
        torch.cuda.get_device_name() if on_gpu else device,
        torch.__version__,
        triton_version(),
        time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )


def check_all(kernels: tuple[str, ...] = checks.STEMS) -> list[checks.Result]:
    """Every case of the kernels on this GPU, those in the shapes of real models included."""
    return [result for stem in kernels for result in checks.run(stem, "cuda", "triton", large=True)]


def main(argv: list[str] | None = None) -> int:
    """Check, time, print; exit code 1 without a GPU or with a failed check."""
    parser = argparse.ArgumentParser(prog="python -m kvrepro.kernels.bench", description=__doc__.splitlines()[0])
    parser.add_argument("kernels", nargs="*", help=f"of {', '.join(checks.STEMS)} (default: all)")
    parser.add_argument("--out", help="CSV file to write")
    args = parser.parse_args(argv)
    unknown = set(args.kernels) - set(checks.STEMS)
    if unknown:
        parser.error(f"unknown kernels {sorted(unknown)}; known: {', '.join(checks.STEMS)}")
    try:
        require_cuda()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    kernels = tuple(args.kernels) or checks.STEMS
    results = check_all(kernels)
    failed = [r for r in results if not r.ok]
    for r in failed:
        print(f"FAILED {r.stem} {r.case}: {r.errors} limit {r.limit} {r.failure}", file=sys.stderr)
    copy = copy_rate()
    print(f"{torch.cuda.get_device_name()}: copy {copy / 1e9:.0f} GB/s")
    broken: list[dict[str, str]] = []
    rows = bench(kernels, copy=copy, passed={r.stem for r in results} - {r.stem for r in failed}, failures=broken)
    if args.out:
        with open(args.out, "w", newline="") as file:
            writer = csv.DictWriter(file, [f.name for f in fields(Row)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
    print(
        json.dumps(
            {
                "rows": len(rows),
                "copy_gb_per_s": copy / 1e9,
                "failed": [f"{r.stem} {r.case}" for r in failed],
                "broken": broken,
            }
        )
    )
    return 1 if failed or broken else 0


if __name__ == "__main__":
    sys.exit(main())
