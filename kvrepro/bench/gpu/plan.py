"""The processes of `gpu-check`: which there are, in which order, what runs beside what, and how long each may take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import KvreproError

# part -> seconds that one of its processes may take, and what it tells; in the order in which they run
PARTS = {
    "rates": (40, "bytes a second of a copy and of works that only read"),
    "correct": (110, "logits of the replayed graph, replies of tiny models against the CPU's and the committed table"),
    "decode": (95, "logits of the model that is timed; dynts at two budgets: steps, evictions, kernels by name"),
    "products": (40, "the five matrix products of a step, by every library that has them"),
    "baselines": (60, "the full cache, transformers.generate and an eager loop"),
    "kernel-checks": (90, "every kernel against its twin in torch"),
    "kernel-bench": (90, "times of the kernels whose checks passed; brings kernel-checks along"),
    "more": (240, "largest batches, a real run, other methods and budgets, long baselines"),
}
# what tells whether the GPU path is right and fast enough at all, and the seconds that it may take together
FIRST_PARTS, FIRST_S = ("rates", "correct", "decode", "products", "baselines"), 300
# several parts by one name
GROUPS = {"kernels": ("kernel-checks", "kernel-bench")}
# what a part cannot do without: bounds need the rates, and no kernel is timed that was not checked in the same run
NEEDS = {"decode": ("rates",), "baselines": ("rates",), "more": ("rates",), "kernel-bench": ("rates", "kernel-checks")}
# compiles what the timed parts launch, beside `correct`, which is not timed
WARM, WARM_S = "warm", 110
TINY_MODELS = ("tiny-r1-llama", "tiny-r1-qwen")
# kernels are then launched when their predecessor has ended, and not before
PDL_OFF = "KVREPRO_PDL=0"
PDL_ENVIRONMENT = dict([PDL_OFF.split("=")])


@dataclass(frozen=True)
class Unit:
    """One process.

    Attributes:
        work: `module:function`, called with a `child.Task`.
        name: what of the part it does: a model, a kernel; empty where the part has one process.
        limit_s: it is killed after so many seconds.
    """

    part: str
    work: str
    name: str = ""
    limit_s: float = 60.0
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """For messages and file names."""
        return f"{self.part} {self.name}".strip()


@dataclass(frozen=True)
class Settings:
    """What every process is told."""

    models: tuple[str, ...]
    rows: int = 20
    device: str = "cuda"
    small: bool = False


def chosen_parts(only: Sequence[str] | None) -> list[str]:
    """Parts in their order: all, or those asked for and what they need.

    Raises:
        KvreproError: an unknown part.
    """
    if unknown := set(only or ()) - {*PARTS, *GROUPS}:
        raise KvreproError(f"unknown parts {sorted(unknown)}; known are {', '.join([*PARTS, *GROUPS])}")
    wanted = {part for name in only or PARTS for part in GROUPS.get(name, (name,))}
    wanted |= {needed for part in wanted for needed in NEEDS.get(part, ())}
    return [part for part in PARTS if part in wanted]


def stages(parts: Sequence[str], settings: Settings, stems: Sequence[str]) -> Iterator[tuple[bool, list[Unit]]]:
    """`(is among the first, processes)`: those of one stage run side by side, stages one after the other.

    Nothing is timed in a stage of several processes.

    Args:
        stems: the kernels.
    """
    for part in parts:
        units = list(_units(part, settings, stems))
        if part == "correct":
            yield True, [*units, *_warm(settings, "more" in parts)]
        elif part == "kernel-checks":
            yield False, units
        else:
            for unit in units:
                yield part in FIRST_PARTS, [unit]


def _units(part: str, settings: Settings, stems: Sequence[str]) -> Iterator[Unit]:
    def unit(work: str, name: str = "", **more: Any) -> Unit:
        return Unit(part, f"kvrepro.bench.gpu.{work}", name, PARTS[part][0], **more)

    if part == "rates":
        yield unit("rates:measure")
    elif part == "correct":
        yield unit("logits:compare", "logits")
        for name in TINY_MODELS:
            yield unit("replies:compare", name)
    elif part == "products":
        for name in settings.models:
            yield unit("products:measure", name)
    elif part == "kernel-checks":
        for stem in stems:
            yield unit("kernel_rows:check", stem)
    elif part == "kernel-bench":
        # a kernel alone: one that begins before its like has ended hides a part of it
        yield unit("kernel_rows:time", environment=PDL_ENVIRONMENT)
    elif part == "more":
        yield from _more(settings, unit)
    else:
        for name in settings.models:
            yield unit(f"decode:{part}", name)


def _more(settings: Settings, unit: Any) -> Iterator[Unit]:
    first = settings.models[0]
    yield unit("decode:largest", f"{first} largest batch")
    yield unit("decode:decode_again", f"{first} {PDL_OFF}", environment=PDL_ENVIRONMENT)
    yield unit("real_run:measure", f"{first} real run")
    for name in settings.models[1:]:
        yield unit("decode:largest", f"{name} largest batch")
    for name in settings.models:
        yield unit("decode:others", f"{name} others")


def _warm(settings: Settings, all_methods: bool) -> Iterator[Unit]:
    for name in settings.models:
        for methods in ("dynts", "full", *(("others",) if all_methods else ())):
            yield Unit(WARM, "kvrepro.bench.gpu.warm:compile_kernels", f"{name} {methods}", WARM_S)
