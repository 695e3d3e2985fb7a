"""Decode speed in parts that can be measured in seconds: steps at given lengths, one eviction, and what they add up to.

A row of budget C lives in a cycle: from `kept` slots after an eviction up to `peak`, one token per step. The time of
a step is measured at the ends and in the middle of the cycle over caches that were filled beforehand, the eviction on
its own; speed is rows * period / (sum of the steps + one eviction per row). The same is done for the baselines at
given lengths. Random keys and values serve, since kernels do not care what they hold, with one exception: R-KV's
search for the newest similar key ends at the first hit, and random keys have none, so its eviction is timed at its
dearest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from ..cache.shape import CacheShape
from ..cache.slots import CompressedCache
from ..engine.async_tokens import AsyncTokens
from ..engine.decoders.choose import make_decoder
from ..errors import KvreproError
from ..kernels.sample import sample
from ..methods.base import EvictionMethod
from ..methods.views import NEVER, EvictionView, StepView
from ..models.memory import rows_that_fit

SAMPLING = dict(temperature=0.6, top_k=20, top_p=0.95)
# a prompt of the usual length, for methods that pin it
PROMPT_TOKENS = 200
# left free beside weights and cache: logits, graphs, the workspaces of the library
RESERVED_BYTES = 4 * 2**30


class TooLargeError(KvreproError):
    """A batch that does not fit into the memory of the device."""


@dataclass(frozen=True)
class StepTimes:
    """Milliseconds per step at some lengths (slots in use before the step)."""

    lengths: list[int]
    ms: list[float]

    def mean_ms(self) -> float:
        """Mean over the lengths between the first and the last, straight lines between what was measured."""
        if len(self.lengths) == 1:
            return self.ms[0]
        pairs = list(zip(self.lengths, self.ms, strict=True))
        area = sum((b - a) * (x + y) / 2 for (a, x), (b, y) in pairwise(pairs))
        return area / (self.lengths[-1] - self.lengths[0])


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def largest_batch(model: PreTrainedModel, capacity: int, most: int = 512) -> int:
    """Rows of `capacity` slots that fit into the free memory of the model's GPU, 0 if not even one does."""
    shape = CacheShape.of(model.config)
    slot = 2 * shape.layers * shape.kv_heads * shape.head_dim * model.dtype.itemsize
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(model.device)
    return min(most, rows_that_fit(free - RESERVED_BYTES, slot, capacity, model.config.vocab_size))


def filled_cache(model: PreTrainedModel, method: EvictionMethod, rows: int, capacity: int) -> CompressedCache:
    """A cache for the method, full of small random keys and values; `set_length` says how much of it is in use.

    Raises:
        TooLargeError: it does not fit; says how many rows do.
    """
    if model.device.type == "cuda" and rows > (fits := largest_batch(model, capacity, most=rows)):
        raise TooLargeError(f"{rows} rows of {capacity} slots do not fit beside the weights; {fits} do")
    if not rows:
        raise TooLargeError(f"not even one row of {capacity} slots fits beside the weights")
    cache = CompressedCache(model.config, rows, capacity, method.granularity, model.dtype, model.device)
    # layer by layer: the random numbers of a whole cache would need as much memory again
    for layer in cache.kv.flatten(0, 1):
        layer.normal_(std=0.5)
    method.prepare(cache)
    return cache


def set_length(cache: CompressedCache, length: int) -> None:
    """Every row holds `length` slots, nothing evicted before."""
    cache.lengths, cache.seen = [length] * cache.max_rows, [length] * cache.max_rows
    cache.positions[..., :length] = torch.arange(length, device=cache.kv.device)


@torch.inference_mode()
def step_ms(
    step: Callable[[Tensor], tuple[Tensor, Tensor]], observe: Callable[[Tensor, Tensor], None], rows: int, steps: int,
    device: torch.device, warm_up: int = 3,
) -> float:  # fmt: skip
    """Milliseconds per step of feeding, observing, sampling and reading tokens late; `warm_up` steps come before."""
    tokens, keys = torch.ones(rows, dtype=torch.int64, device=device), torch.arange(rows, device=device)
    late, started = AsyncTokens(), 0.0
    for number in range(warm_up + steps):
        if number == warm_up:
            synchronize(device)
            started = time.perf_counter()
        logits, hidden = step(tokens)
        observe(hidden, tokens)
        tokens = sample(logits, keys, torch.full_like(keys, number), **SAMPLING)
        late.push(tokens)
    late.drain()
    synchronize(device)
    return (time.perf_counter() - started) / steps * 1e3


def engine_times(
    model: PreTrainedModel, method: EvictionMethod, cache: CompressedCache, lengths: list[int], steps: int,
    decoder: str = "graph",
) -> StepTimes:  # fmt: skip
    """Our step at some lengths; the last one must leave room for `steps` and three warm-up steps."""
    stepper, found = make_decoder(model, decoder), []
    for length in lengths:
        set_length(cache, length)
        found.append(
            step_ms(
                lambda tokens: stepper.step(tokens, cache),
                lambda hidden, tokens: method.observe(StepView(cache, hidden, tokens)),
                cache.max_rows, steps, model.device,
            )
        )  # fmt: skip
    return StepTimes(lengths, found)


@torch.inference_mode()
def eviction_ms(method: EvictionMethod, cache: CompressedCache, rows: int = 3) -> float:
    """Milliseconds to score, plan and compact one row that has filled its budget; the first one warms up."""
    length, device = method.schedule.peak_tokens, cache.kv.device
    set_length(cache, length)
    count, started = min(rows, cache.max_rows), 0.0
    for row in range(count):
        if row == 1 or count == 1:
            synchronize(device)
            started = time.perf_counter()

        def one(value: int) -> Tensor:
            return torch.tensor([value], device=device)

        view = EvictionView(cache, one(row), length, one(PROMPT_TOKENS), one(NEVER), one(row), one(0))
        for plan in method.plans(view)[0]:
            cache.compact(plan)
            method.after_compact(cache, plan)
    synchronize(device)
    return (time.perf_counter() - started) / max(1, count - 1) * 1e3


def budget_row(
    model: PreTrainedModel, method: EvictionMethod, rows: int, steps: int = 16, decoder: str = "graph"
) -> dict[str, object]:
    """Speed of one method under its budget, over a whole cycle of its rows."""
    schedule = method.schedule
    peak, kept = schedule.peak_tokens, schedule.kept_tokens
    cache = filled_cache(model, method, rows, peak)
    last = max(kept, peak - steps - 3)
    lengths = sorted({kept, (kept + last) // 2, last})
    # a short cycle: what would run over its end begins earlier instead
    lengths = [min(n, last) for n in lengths if n <= last] or [last]
    times = engine_times(model, method, cache, lengths, min(steps, peak - lengths[-1] - 3), decoder)
    evict = eviction_ms(method, cache)
    period = peak - kept
    cycle_ms = period * times.mean_ms() + rows * evict
    return dict(
        rows=rows, budget_tokens=schedule.budget, window=schedule.window, kept_tokens=kept, period_steps=period,
        step_lengths=times.lengths, step_ms=times.ms, eviction_ms=evict, eviction_share=rows * evict / cycle_ms,
        decode_tps=rows * period / cycle_ms * 1e3, mean_slots=(kept + peak) / 2, kv_bytes=cache.kv_bytes,
        bytes_per_slot=cache.bytes_per_slot,
    )  # fmt: skip


def full_row(
    model: PreTrainedModel, method: EvictionMethod, rows: int, longest: int, steps: int = 16, decoder: str = "graph"
) -> dict[str, object]:
    """Speed of the full cache at some lengths up to `longest`, and over the whole way there."""
    cache = filled_cache(model, method, rows, longest)
    lengths = sorted({max(1, longest // 16), longest // 4, longest // 2, longest - steps - 3})
    times = engine_times(model, method, cache, lengths, steps, decoder)
    return dict(
        rows=rows, step_lengths=times.lengths, step_ms=times.ms, decode_tps=rows / times.mean_ms() * 1e3,
        mean_slots=sum(times.lengths[:: len(lengths) - 1]) / 2, kv_bytes=cache.kv_bytes,
        bytes_per_slot=cache.bytes_per_slot,
    )  # fmt: skip


def _dynamic_cache(model: PreTrainedModel, rows: int, length: int) -> DynamicCache:
    shape, cache = CacheShape.of(model.config), DynamicCache()
    size = (rows, shape.kv_heads, length, shape.head_dim)
    for layer in range(shape.layers):
        keys, values = (torch.empty(size, dtype=model.dtype, device=model.device).normal_(std=0.5) for _ in range(2))
        cache.update(keys, values, layer)
    return cache


def eager_row(model: PreTrainedModel, rows: int, lengths: list[int], steps: int = 6) -> dict[str, object]:
    """Baseline: eager attention over a DynamicCache that is concatenated anew at every step, tokens read at once."""
    before, found = model.config._attn_implementation, []
    model.set_attn_implementation("eager")
    try:
        for length in lengths:
            cache = _dynamic_cache(model, rows, length)

            def step(tokens: Tensor, cache: DynamicCache = cache) -> tuple[Tensor, Tensor]:
                at = torch.full((rows, 1), cache.get_seq_length(), device=model.device)
                out = model(tokens[:, None], past_key_values=cache, position_ids=at, use_cache=True)
                # the reference looks at every token before it goes on
                out.logits[:, -1].argmax(-1).tolist()
                return out.logits[:, -1], out.logits

            found.append(step_ms(step, lambda hidden, tokens: None, rows, steps, model.device, warm_up=2))
            del cache, step
    finally:
        model.set_attn_implementation(before)
    times = StepTimes(lengths, found)
    return dict(rows=rows, step_lengths=lengths, step_ms=found, decode_tps=rows / times.mean_ms() * 1e3)


@torch.inference_mode()
def generate_row(model: PreTrainedModel, rows: int, lengths: list[int], steps: int = 16) -> dict[str, object]:
    """Baseline: `transformers.generate` with SDPA and a DynamicCache that already holds the context."""
    before, found = model.config._attn_implementation, []
    model.set_attn_implementation("sdpa")
    try:
        for length in lengths:

            def run(new_tokens: int, length: int = length) -> float:
                cache = _dynamic_cache(model, rows, length)
                ids = torch.ones(rows, length + 1, dtype=torch.int64, device=model.device)
                synchronize(model.device)
                started = time.perf_counter()
                out = model.generate(
                    ids, attention_mask=torch.ones_like(ids), past_key_values=cache, max_new_tokens=new_tokens,
                    min_new_tokens=new_tokens, do_sample=True, pad_token_id=0, **SAMPLING,
                )  # fmt: skip
                synchronize(model.device)
                if out.shape[1] != length + 1 + new_tokens:
                    raise RuntimeError(f"generate made {out.shape[1] - length - 1} tokens instead of {new_tokens}")
                return time.perf_counter() - started

            run(2)
            # the difference of two runs: what is paid once per call (masks, the start) is not decoding
            short, long = run(2), run(2 + steps)
            found.append((long - short) / steps * 1e3)
    finally:
        model.set_attn_implementation(before)
    times = StepTimes(lengths, found)
    return dict(rows=rows, step_lengths=lengths, step_ms=found, decode_tps=rows / times.mean_ms() * 1e3)


def with_bound(row: dict[str, object], weight_bytes: int, copy_bytes_per_s: float) -> dict[str, object]:
    """Add the speed at which memory alone would limit this row, and the fraction of it that was reached."""
    per_step = weight_bytes + row["bytes_per_slot"] * row["rows"] * row["mean_slots"]
    bound = row["rows"] * copy_bytes_per_s / per_step
    share = row["decode_tps"] / bound if math.isfinite(bound) else math.nan
    return row | dict(bound_tps=bound, fraction_of_bound=share)
