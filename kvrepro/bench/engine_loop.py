"""Our engine in short stretches: its own step, over a cache that was filled beforehand, and whole replies.

Random keys and values serve, since kernels do not care what they hold, with one exception: R-KV's search for the newest
similar key ends at the first hit, and random keys have none, so its eviction is timed at its dearest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from transformers import PreTrainedModel

from ..engine.batch import Row
from ..engine.engine import Engine
from ..engine.requests import Completion, Request, SamplingConfig
from ..engine.stage_timer import StageTimer
from ..errors import RunError
from ..methods.base import EvictionMethod
from ..methods.learned.importance import ImportancePredictor, PredictorShape
from ..methods.table import create_method
from ..methods.views import NEVER
from ..models.tokens import ThinkTags
from .laps import Laps, timed

MODEL_PARTS = ("attention", "projections", "mlp", "head")


def bench_method(name: str, model: PreTrainedModel, budget: int, evict_every: int) -> EvictionMethod:
    """`window` or `dynts` in the fair protocol; the head of `dynts` is untrained, which changes no time."""
    options = {}
    if name == "dynts":
        width = model.config.hidden_size
        # the head of an 8B model (4096 -> 8192 -> 2048) scaled to the width
        shape = PredictorShape(width, 2 * width, width // 2)
        options = {"predictor": ImportancePredictor(shape).to(model.device, model.dtype).eval()}
    return create_method(name, budget, budget // 4, evict_every=evict_every, protocol="fair", **options)


class EngineLoop:
    """The engine with a full batch, at any length that is asked for.

    Args:
        capacity: slots per row; None for the most that the method's schedule lets a row hold.
        n_prompt: slots of each row that count as its prompt, for methods that pin it.

    Stretches and evictions return median milliseconds by either clock.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        method: EvictionMethod,
        rows: int,
        capacity: int | None = None,
        *,
        decoder: str = "auto",
        n_prompt: int = 1,
    ):
        self.method, self.device = method, model.device
        self.engine = _engine(model, method, rows, NEVER, decoder)
        capacity = method.schedule.peak_tokens if capacity is None else capacity
        self.state = self.engine.open(rows, capacity)
        self.kv_bytes, self.bytes_per_slot = self.state.cache.kv_bytes, self.state.cache.bytes_per_slot
        # layer by layer and the same in every row: the random numbers of a whole cache would need as much memory again
        for layer in self.state.cache.kv.flatten(0, 1):
            layer.copy_(torch.empty_like(layer[:1]).normal_(std=0.5))
        for i in range(rows):
            self.state.batch.admit(Row(Request(str(i), 0, (1,) * n_prompt), 0), 1)
        # nothing is due while steps are timed: evictions are timed on their own
        self.state.sync_step = NEVER

    def set_length(self, length: int, seen: int | None = None) -> None:
        """Every row holds `length` slots and has processed `seen` tokens, by default as many."""
        cache = self.state.cache
        cache.lengths, cache.seen = [length] * cache.max_rows, [seen or length] * cache.max_rows
        cache.positions[..., :length] = torch.arange(length, device=self.device)

    def stretch(self, length: int, steps: int, warm_up: int, seen: int | None = None) -> dict[str, float]:
        """Steps that begin at `length` slots, and the bytes of K and V; the `warm_up` ones come first."""
        self.set_length(length, seen)
        laps = Laps()
        for _ in range(warm_up + steps):
            self.engine.step(self.state)
            laps.lap()
        return {**laps.medians(warm_up), "kv_bytes": self.kv_bytes}

    def mean_step_ms(self, length: int, steps: int, warm_up: int) -> float:
        """Milliseconds a step by the wall clock, tokens read late: the device is waited for at the end alone."""
        self.set_length(length)
        laps = Laps(self.device)
        for count in (warm_up, steps):
            laps.start()
            for _ in range(count):
                self.engine.step(self.state)
            self.engine.read_all(self.state)
            laps.lap()
        return laps.wall[1] / steps

    def evictions(self, groups: Sequence[list[int]]) -> dict[str, float]:
        """Evictions of rows that have filled their budget, a group at a time; the first of several warms up."""
        laps, length = Laps(self.device), self.method.schedule.peak_tokens
        for rows in groups:
            self.set_length(length)
            laps.start()
            self.engine.evict(self.state, rows, length)
            self.state.count_evictions(self.method, self.engine.stats)
            laps.lap()
        return laps.medians(int(len(groups) > 1))

    def eviction(self, repeats: int) -> dict[str, float]:
        """Evictions of the whole batch at once, as the engine groups rows of equal length."""
        return self.evictions([list(range(self.state.cache.max_rows))] * (repeats + 1))

    def split(self, length: int, steps: int, clock: str, evict_every: int) -> dict[str, float]:
        """Where a step's time goes, ms: attention, projections, mlp, head, score, evict, sample, host, other.

        Taken with timers around every part, which cost a little themselves; `evict` is one eviction's share of a step.
        """
        self.stretch(length, 1, 0)
        timer = self.state.timer = self.state.part_timer = StageTimer({}, self.device, clock)
        self.stretch(length, steps, 0)
        timer.settle()
        found = {name.removesuffix("_s"): 1e3 * seconds / steps for name, seconds in timer.seconds.items()}
        inside = sum(found.get(name, 0.0) for name in MODEL_PARTS)
        found["other"] = max(0.0, found.pop("forward") - inside)
        if self.method.schedule is not None:
            found["evict"] = self.eviction(1)[clock] / evict_every
        return found


def run_replies(
    model: PreTrainedModel,
    method: EvictionMethod,
    requests: Iterable[Request],
    new_tokens: int,
    *,
    sampling: SamplingConfig | None = None,
    decoder: str = "auto",
    clock: str = "wall",
) -> tuple[dict[str, float], Engine]:
    """Whole replies of `new_tokens` tokens in one batch, prefill included: milliseconds, and the engine with its stats.

    Args:
        clock: of the stats, see `StageTimer`.

    Raises:
        RunError: replies differ in length, so their times cannot be compared.
    """
    requests = list(requests)
    engine = _engine(model, method, len(requests), new_tokens, decoder, sampling, clock)
    done: list[Completion] = []
    ms = timed(lambda: done.extend(engine.run(requests)), model.device)
    if any(len(c.token_ids) != new_tokens for c in done):
        raise RunError("the engine's replies differ in length; the comparison would not be fair")
    return ms, engine


def _engine(
    model, method, rows: int, new_tokens: int, decoder: str, sampling: SamplingConfig | None = None, clock: str = "wall"
) -> Engine:
    """An engine whose replies nothing but their length ends."""
    sizes = {"batch_rows": rows, "max_new_tokens": new_tokens, "decoder": decoder, "clock": clock}
    return Engine(model, method, ThinkTags(()), (), sampling=sampling or SamplingConfig(), **sizes)
