"""Our engine in the same short stretches: its decoder, its method, its sampler, tokens read at every step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..cache.slots import CompressedCache
from ..engine.decoders.choose import FusedDecoder, make_decoder
from ..engine.decoders.native import NativeDecoder
from ..engine.engine import Engine
from ..engine.requests import Request, SamplingConfig
from ..engine.sampling import sample_tokens
from ..kernels import reference
from ..methods.base import EvictionMethod
from ..methods.learned.importance import ImportancePredictor, PredictorShape
from ..methods.table import create_method
from ..methods.views import NEVER, EvictionView, StepView
from ..models.tokens import ThinkTags
from .clock import Laps
from .gpu import set_length

# sizes of the head of an 8B model (4096 -> 8192 -> 2048) scaled to the width
HIDDEN_FACTORS = (2.0, 0.5)


def bench_method(name: str, model: PreTrainedModel, budget: int | None, evict_every: int) -> EvictionMethod:
    """`full`, `window` or `dynts` in the fair protocol; the head of `dynts` is untrained, which changes no time."""
    if budget is None:
        return create_method("full")
    options = {}
    if name == "dynts":
        width = model.config.hidden_size
        shape = PredictorShape(width, *(int(f * width) for f in HIDDEN_FACTORS))
        options = {"predictor": ImportancePredictor(shape).to(model.device, model.dtype).eval()}
    return create_method(name, budget, budget // 4, evict_every=evict_every, protocol="fair", **options)


class OurEngine:
    """The parts of one decode step in the order of `Engine`, over a cache that was filled beforehand.

    Args:
        name: `full`, `window` or `dynts`.
        budget, evict_every: slots after an eviction and tokens between evictions; None for the full cache.
        capacity: slots per row where the method does not bound them.
        decoder: which decode step, see `make_decoder`.
    """

    def __init__(
        self, model: PreTrainedModel, name: str, budget: int | None = None, evict_every: int = 128, capacity: int = 0,
        decoder: str = "auto",
    ):  # fmt: skip
        self.model, self.method = model, bench_method(name, model, budget, evict_every)
        self.kind, self.decoder, self.sampling = decoder, make_decoder(model, decoder), SamplingConfig()
        self.capacity = self.method.schedule.peak_tokens if budget is not None else capacity
        self.evict_every = evict_every

    def _filled_cache(self, rows: int) -> CompressedCache:
        method, model = self.method, self.model
        cache = CompressedCache(model.config, rows, self.capacity, method.granularity, model.dtype, model.device)
        shape = cache.shape
        # one token's noise everywhere, as in the baselines
        cache.kv.copy_(torch.randn(2, 1, 1, shape.kv_heads, 1, shape.head_dim) / 2)
        method.prepare(cache)
        return cache

    @torch.inference_mode()
    def stretch(
        self, rows: int, length: int, steps: int, warm_up: int, seen: int | None = None
    ) -> tuple[Laps, CompressedCache]:
        """Steps beginning at `length` slots; laps after the warm-up, and the cache.

        Args:
            seen: tokens that each row has processed before; default `length`.
        """
        cache = self._filled_cache(rows)
        laps = self.steps(cache, length, steps, warm_up, seen)
        return laps, cache

    @torch.inference_mode()
    def steps(
        self, cache: CompressedCache, length: int, steps: int, warm_up: int, seen: int | None = None,
        sections: Sections | None = None,
    ) -> Laps:  # fmt: skip
        """As `stretch`, over a given cache."""
        rows, laps = cache.max_rows, Laps()
        set_length(cache, length)
        if seen is not None:
            cache.seen = [seen] * rows
        keys, tokens = torch.arange(rows), [1] * rows
        timed = sections.section if sections is not None else _untimed
        for number in range(warm_up + steps):
            if number == warm_up:
                laps = Laps()
                if sections is not None:
                    sections.ms.clear()
            newest = torch.tensor(tokens)
            with timed("step"):
                logits, hidden = self.decoder.step(newest, cache)
            with timed("score"):
                self.method.observe(StepView(cache, hidden, newest))
            with timed("sample"):
                drawn = sample_tokens(logits, self.sampling, keys, torch.full_like(keys, number))
            with timed("host"):
                tokens = drawn.tolist()
            laps.lap()
        return laps

    @torch.inference_mode()
    def eviction(self, rows: int, repeats: int) -> Laps:
        """Evictions of the whole batch at once, as the engine groups rows of equal length; the first is dropped."""
        cache, laps = self._filled_cache(rows), Laps()
        for number in range(repeats + 1):
            if number == 1:
                laps = Laps()
            set_length(cache, self.capacity)
            laps.start()
            self._evict(cache)
            laps.lap()
        return laps

    def _evict(self, cache: CompressedCache) -> None:
        every = torch.arange(cache.max_rows)
        none = torch.zeros_like(every)
        # no prompt is pinned: which slots stay does not change the time
        view = EvictionView(cache, every, cache.lengths[0], none, torch.full_like(every, NEVER), every, none)
        for plan in self.method.plans(view)[0]:
            cache.compact(plan)
            self.method.after_compact(cache, plan)

    def reply(self, rows: int, prompt: int, new_tokens: int) -> tuple[float, float]:
        """Whole replies through `Engine` itself; wall and processor seconds, prefill included."""
        engine = Engine(
            self.model, self.method, ThinkTags(()), (), sampling=self.sampling, batch_rows=rows,
            max_new_tokens=new_tokens, decoder=self.kind,
        )  # fmt: skip
        started = time.perf_counter(), time.process_time()
        done = list(engine.run(Request(str(i), 0, (1,) * prompt) for i in range(rows)))
        if any(len(c.token_ids) != new_tokens for c in done):
            raise RuntimeError("the engine's replies differ in length")
        return time.perf_counter() - started[0], time.process_time() - started[1]

    @torch.inference_mode()
    def split(self, rows: int, length: int, steps: int, clock: str) -> dict[str, float]:
        """Where a step's time goes, ms: attention, projections, mlp, head, score, evict, sample, host, other.

        Taken with timers around every part, which cost a little themselves; `evict` is one eviction's share of a step.
        """
        cache, sections = self._filled_cache(rows), Sections(self.model, clock)
        with sections.inside(self.decoder):
            self.steps(cache, length, steps, 1, sections=sections)
        found = {name: ms / steps for name, ms in sections.ms.items()}
        parts = ("attention", "projections", "mlp", "head")
        inside = sum(found.get(name, 0.0) for name in parts)
        found["other"] = max(0.0, found.pop("step") - inside)
        if self.method.schedule is not None:
            found["evict"] = self.eviction(rows, 1).medians()[clock] / self.evict_every
        return found


@contextmanager
def _untimed(name: str) -> Iterator[None]:
    yield


class Sections:
    """Milliseconds by part of a step, `wall` or `cpu`; torch's products are told apart by the shape of their weight."""

    def __init__(self, model: PreTrainedModel, clock: str):
        self.ms: dict[str, float] = {}
        self.clock = {"wall": time.CLOCK_MONOTONIC, "cpu": time.CLOCK_PROCESS_CPUTIME_ID}[clock]
        config = model.config
        self.names = {
            (config.vocab_size, config.hidden_size): "head",
            (2 * config.intermediate_size, config.hidden_size): "mlp",
            (config.hidden_size, config.intermediate_size): "mlp",
        }

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Add the time of a block."""
        started = time.clock_gettime(self.clock)
        yield
        self.ms[name] = self.ms.get(name, 0.0) + 1e3 * (time.clock_gettime(self.clock) - started)

    @contextmanager
    def inside(self, decoder: NativeDecoder | FusedDecoder) -> Iterator[None]:
        """Time the decoder's own parts inside the block."""
        if not isinstance(decoder, FusedDecoder):
            decoder.compiled.part_ms, decoder.compiled.part_clock = self.ms, self.clock
            try:
                yield
            finally:
                decoder.compiled.part_ms = None
            return
        linear, attend, append = nn.functional.linear, reference.decode_attention, CompressedCache.append

        def timed_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            with self.section(self.names.get(tuple(weight.shape), "projections")):
                return linear(x, weight, bias)

        def timed_attend(*args, **kwargs):
            with self.section("attention"):
                return attend(*args, **kwargs)

        def timed_append(*args, **kwargs):
            with self.section("attention"):
                return append(*args, **kwargs)

        nn.functional.linear, reference.decode_attention, CompressedCache.append = (
            timed_linear, timed_attend, timed_append,
        )  # fmt: skip
        try:
            yield
        finally:
            nn.functional.linear, reference.decode_attention, CompressedCache.append = linear, attend, append
