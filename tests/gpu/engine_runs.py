"""Whole engine runs of one method on a small model: on the CPU, and on the pretend device with its steps told apart."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kvrepro.kernels.launch import say_once

from kvrepro.engine.engine import Engine
from kvrepro.engine.observer import KeptPositions
from kvrepro.engine.requests import Completion, Request, RunStats, SamplingConfig
from kvrepro.models.tokens import ThinkTags

from ..conftest import make_random_model
from ..method_cases import BUDGET, build, fair, published
from .pretend_cuda import PretendCuda

# what a step may be: before a deciding one every token is read, since a row may evict or reach its last token
STEADY, DECIDING, ENDING, CAPTURING = "steady step", "deciding step", "step that ended a row", "step with a capture"
EVICTION = "eviction"
# what tests look at on their own account
WATCHING = "observer"
PROTOCOLS = {"fair": fair, "published": published}
THINK_END, END = 51, 31
# so many that the last one is seldom drawn: where it nearly ties with the next one, rounding decides which remains
TOP_K = 100


@dataclass
class Run:
    """What a run left: replies by request, its counts, and what the pretend device saw of it."""

    replies: dict[tuple[str, int], Completion]
    stats: RunStats
    decoder: Any
    warnings: list[str] = field(default_factory=list)

    def told(self) -> dict[tuple[str, int], tuple]:
        """What must not depend on the device."""
        return {
            name: (c.status, tuple(c.token_ids), c.evictions, c.peak_tokens, c.kept_positions)
            for name, c in self.replies.items()
        }


class _Observer(KeptPositions):
    def __init__(self, gpu: PretendCuda):
        self.gpu = gpu

    def evicted(self, *given: Any) -> None:
        with self.gpu.journal.section(WATCHING):
            super().evicted(*given)


class _WatchedEngine(Engine):
    """Tells the journal which kind of step it is in."""

    gpu: PretendCuda

    def step(self, state: Any) -> list[Completion]:
        decides, captures = state.batch.n_steps + 1 >= state.sync_step, self.gpu.captures
        self.gpu.ticks += 1
        with self.gpu.journal.section(DECIDING if decides else STEADY) as section:
            ended = super().step(state)
            if self.gpu.captures > captures:
                section.name = CAPTURING
            elif ended and not decides:
                section.name = ENDING
        return ended

    def evict(self, *given: Any) -> None:
        with self.gpu.journal.section(EVICTION):
            super().evict(*given)


def requests(prompts: Iterable[int] = (5, 9, 13), samples: int = 2) -> list[Request]:
    """Some prompts of these lengths, each with so many samples."""
    return [
        Request(str(i), s, (1, *random.Random(i).choices(range(60, 200), k=n - 1)))
        for i, n in enumerate(prompts)
        for s in range(samples)
    ]


def make_method(method: str, protocol: str, budget: int, model: Any) -> Any:
    """A method of its own for every run; what does not fit beside the window is no error here."""
    if method == "full":
        return build("full", None)
    sizes = PROTOCOLS[protocol](method)
    if protocol == "fair":
        sizes.setdefault("pin_overflow", "keep_first")
    if "predictor" in sizes:
        # as `load_learned` does
        sizes["predictor"].to(model.device, model.dtype)
    return build(method, budget, **sizes)


def run(
    method: str,
    protocol: str = "fair",
    *,
    gpu: PretendCuda | None = None,
    decoder: str | None = None,
    kind: str = "llama",
    budget: int = BUDGET,
    asked: list[Request] | None = None,
    rows: int = 3,
    new_tokens: int = 60,
    **overrides: Any,
) -> Run:
    """One run on the CPU with `decoder='fused'`, or inside `gpu`, which must be entered, as a GPU would do it.

    Args:
        overrides: of the model's configuration.
    """
    say_once.cache_clear()
    model = make_random_model(kind, **overrides)
    if gpu is not None:
        gpu.move(model)
    settings = dict(
        sampling=SamplingConfig(temperature=1.5, top_k=TOP_K, top_p=0.98), batch_rows=rows, max_new_tokens=new_tokens
    )
    chosen = make_method(method, protocol, budget, model)
    given = (chosen, ThinkTags((THINK_END,)), (END,))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if gpu is None:
            engine = Engine(model, *given, decoder=decoder or "fused", observer=KeptPositions(), **settings)
        else:
            engine = _WatchedEngine(model, *given, decoder=decoder or "auto", observer=_Observer(gpu), **settings)
            engine.gpu = gpu
        asked = requests() if asked is None else asked
        replies = {(c.request.problem_id, c.request.sample_id): c for c in engine.run(asked)}
    said = [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]
    return Run(replies, engine.stats, engine.decoder, said)
