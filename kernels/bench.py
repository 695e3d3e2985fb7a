"""Times the cases of `bench_cases` on a GPU, for `kvrepro gpu-check --only kernels`.

Kernels are timed inside a CUDA graph, so that launches do not count; the level-2 cache is filled with something else
before every repeat.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

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


def providers(kernel: str, label: str) -> list[str]:
    """What one case is timed with: ours, its torch twin, and library kernels for the same work."""
    return ["triton", "torch", *CASES[kernel, label]("meta").others]


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
    rate, cuts = prepared.bytes / (statistics.median(times) / 1e3), statistics.quantiles(times, n=5, method="inclusive")
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
