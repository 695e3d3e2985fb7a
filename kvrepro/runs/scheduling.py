"""What a scheduler is asked for a cell or a panel, and how long cells take on several GPUs side by side."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..models.memory import GIB, RESERVE_BYTES
from .machines import GB, Machine
from .past_cells import ELSEWHERE, GIVEN, MEASURED

if TYPE_CHECKING:
    from ..models.shapes import ModelSize
    from ..models.table import ModelEntry
    from .forecast import CellForecast
    from .throughput import ThroughputSettings

# A CPU serves what is smaller. The largest model of the shipped profiles that decodes on one has 135 million parameters
# (SmolLM2), the smallest that is meant for GPUs has 1.5 thousand million.
CPU_PARAMETERS = 500_000_000
# what is assumed of a scheduler's GPU while none is named
ASSUMED_GPU_BYTES = 80 * GB
# kernel, its parent and the graders, each with its libraries: 1.2 GB for a tiny cell, measured as the sum of what they
# hold resident (shared libraries counted twice); the rest is for graders that compare long answers
PROCESSES_BYTES = 2 * GIB
# a GPU's driver, its libraries and the kernels' compiler beside that: assumed, not measured
CUDA_BYTES = 3 * GIB
# measured times vary from run to run, and between machines more
RUNTIME_FACTORS = {MEASURED: 2.0, GIVEN: 2.0, ELSEWHERE: 4.0}
START_S = 600.0  # until a job decodes: its node, cold files, weights
_STEP_MB = 100


@dataclass(frozen=True)
class Request:
    """What to ask a scheduler for: main memory of a node in MB (10^6 bytes), minutes, whole GPUs.

    `runtime_min` is None where no time is measured: the executor's own limit holds then, and a cell that reaches it
    goes on where it stopped when it is started again.
    """

    mem_mb: int
    runtime_min: int | None
    gpus: int


def gpus_needed(entry: ModelEntry, size: ModelSize, held_bytes: int, on: Machine) -> int:
    """GPUs of one process.

    0 below `CPU_PARAMETERS`, where the row asks for nothing that a CPU lacks (`quantisation`, `device_map`); else 1;
    with `device_map: auto` as many as hold the bytes.

    Args:
        held_bytes: weights, predictor and cache.
        on: gives the memory of a GPU; where it is a CPU, `ASSUMED_GPU_BYTES`.
    """
    if entry.device_map == "auto":
        memory = ASSUMED_GPU_BYTES if on.is_cpu else on.memory_bytes
        return max(1, math.ceil(held_bytes / (memory - RESERVE_BYTES["cuda"])))
    return int(entry.quantisation is not None or size.parameters >= CPU_PARAMETERS)


def host_mb(size: ModelSize, held_bytes: int, gpus: int) -> int:
    """Main memory of one process and its children, MB.

    Weights pass through it on their way to a GPU, before they are quantised; a CPU keeps all that is held there.

    Args:
        held_bytes: what lies beside the weights: predictor, cache and the logits of a step.
    """
    weights = size.parameters * size.element_bytes
    beside = CUDA_BYTES if gpus else held_bytes + RESERVE_BYTES["cpu"]
    return math.ceil((PROCESSES_BYTES + weights + beside) / 1e6 / _STEP_MB) * _STEP_MB


def runtime_min(timed: Iterable[tuple[float | None, str]]) -> int | None:
    """Minutes to ask for, from seconds and where each comes from; None where one of them is not measured."""
    total = START_S
    for seconds, source in timed:
        if seconds is None or source not in RUNTIME_FACTORS:
            return None
        total += seconds * RUNTIME_FACTORS[source]
    return math.ceil(total / 60)


def panel_request(
    forecasts: Sequence[CellForecast], settings: ThroughputSettings, given: Callable[[int], int] = int
) -> Request:
    """For measuring the throughput of a panel, from the forecasts of its cells.

    Where cells take turns all caches are held at once, else one at a time.

    Args:
        given: from the GPUs that are needed to those that it gets.
    """
    together = sum if settings.turn_tokens is not None else max
    beside = together(p.beside_bytes(min(settings.rows, p.batch_rows)) for p in forecasts)
    first = forecasts[0]
    gpus = given(gpus_needed(first.entry, first.size, first.weights_bytes + beside, first.machine))
    minutes = runtime_min((p.throughput_seconds(settings), p.time_source) for p in forecasts)
    return Request(host_mb(first.size, beside, gpus), minutes, gpus)


def shards_for(forecast: CellForecast, longest_s: float) -> int:
    """Parts that a cell is to be split into so that none takes longer than `longest_s` seconds.

    1 where no time is known. No more than there are full batches: a part with fewer rows than a batch has steps that
    are hardly shorter, so a limit that is shorter still cannot be met. From a bound (`time_source`) it is too few.
    """
    if forecast.seconds is None or forecast.seconds <= longest_s:
        return 1
    most = math.ceil(forecast.n_replies / forecast.batch_rows)
    room = longest_s - forecast.overhead_s
    # every part loads the model anew
    return most if room <= 0 else min(most, math.ceil((forecast.seconds - forecast.overhead_s) / room))


def makespan(jobs: Iterable[tuple[float, int]], n_slots: int) -> float:
    """Seconds until all jobs `(seconds, slots)` are done that begin in their order, each as soon as its slots are free.

    A job that asks for more slots than there are takes all.
    """
    free = [0.0] * n_slots
    for seconds, slots in jobs:
        taken = [heapq.heappop(free) for _ in range(max(1, min(slots, n_slots)))]
        for _ in taken:
            heapq.heappush(free, taken[-1] + seconds)
    return max(free)


def box_seconds(forecasts: Iterable[CellForecast], n_gpus: int, longest_s: float = math.inf) -> float:
    """Wall time of the cells whose time is known on one machine with so many GPUs, one cell per device, in order.

    Args:
        longest_s: cells that take longer are split, see `shards_for`.
    """
    jobs: list[tuple[float, int]] = []
    for p in forecasts:
        if p.seconds is not None:
            n_parts = shards_for(p, longest_s)
            part_s = (p.seconds - p.overhead_s) / n_parts + p.overhead_s
            jobs += [(part_s, p.request.gpus)] * n_parts
    return makespan(jobs, n_gpus)


CELL, PANELS, DEVICES = "longest cell", "throughput", "gpus"


@dataclass(frozen=True)
class Box:
    """A profile on one machine with several GPUs; seconds of the cells whose time is known.

    Attributes:
        cells_s: until all cells are done.
        panels_s: for measuring throughput after that, one panel at a time.
        one_gpu_s: all of it on one of these GPUs.
        longest_cell, longest_s: the cell that takes longest.
        limited_by: `CELL` (more GPUs would not help, parts of that cell do), `PANELS` (nothing runs beside a
            measurement), or `DEVICES`.
        split_s: `cells_s` if no part were longer than an even share of the work.
        even_s: that share.
    """

    gpus: int
    cells_s: float
    panels_s: float
    one_gpu_s: float
    longest_cell: str
    longest_s: float
    limited_by: str
    split_s: float
    even_s: float

    @property
    def seconds(self) -> float:
        """Wall time of everything."""
        return self.cells_s + self.panels_s

    @classmethod
    def of(cls, forecasts: Sequence[CellForecast], n_gpus: int, panels_s: float = 0.0) -> Box | None:
        """None where no time is known."""
        timed = [p for p in forecasts if p.seconds is not None]
        if not timed:
            return None
        one, cells_s = box_seconds(timed, 1), box_seconds(timed, n_gpus)
        longest, even_s = max(timed, key=lambda p: p.seconds), one / n_gpus
        limit = CELL if longest.seconds > even_s else PANELS if panels_s > cells_s else DEVICES
        split_s = box_seconds(timed, n_gpus, even_s)
        found = (longest.cell_id, longest.seconds, limit, split_s, even_s)
        return cls(n_gpus, cells_s, panels_s, one + panels_s, *found)
