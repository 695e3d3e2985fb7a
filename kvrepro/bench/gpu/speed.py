"""Decode speed in pieces that can be measured in seconds, and what they add up to.

A row of budget C lives in a cycle: from `kept` slots after an eviction up to `peak`, one token per step. The time of
a step is measured at the ends and in the middle of the cycle over caches that were filled beforehand, the eviction on
its own; speed is rows * period / (sum of the steps + one eviction per row). The same is done for the baselines at
given lengths.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import torch
from transformers import PreTrainedModel

from ...cache.shape import CacheShape
from ...kernels.launch import has_pdl, pdl_allowed
from ...methods.base import EvictionMethod
from ...methods.learned.importance import ImportancePredictor, PredictorShape
from ...methods.table import create_method
from ...models.memory import free_bytes, rows_that_fit
from ...models.shapes import weight_bytes
from ..baselines import Baseline
from ..engine_loop import EngineLoop
from ..settings import PAPER_RATIOS
from .clocks import clocks_under_load
from .rows import TooLargeError
from .sizes import Sizes

# left free beside weights and cache: logits, graphs, the workspaces of the library
RESERVED_BYTES = {"cuda": 4 * 2**30}


def mean_ms(lengths: list[int], ms: list[float]) -> float:
    """Mean over the lengths between the first and the last, straight lines between what was measured."""
    area = torch.trapezoid(torch.tensor(ms, dtype=torch.float64), torch.tensor(lengths)).item()
    return ms[0] if len(lengths) == 1 else area / (lengths[-1] - lengths[0])


def largest_batch(model: PreTrainedModel, capacity: int, most: int) -> int:
    """Rows of `capacity` slots that fit into the free memory of the model's device, 0 if not even one does."""
    shape, kind = CacheShape.of(model.config), model.device.type
    slot = 2 * shape.layers * shape.kv_heads * shape.head_dim * model.dtype.itemsize
    if kind == "cuda":
        torch.cuda.empty_cache()
    free = free_bytes(str(model.device)) - RESERVED_BYTES.get(kind, 0)
    return min(most, rows_that_fit(free, slot, capacity, model.config.vocab_size))


def paper_method(name: str, method: str, tokens: int, model: PreTrainedModel, sizes: Sizes) -> EvictionMethod:
    """A method at a budget: `dynts` with the paper's window and ratio, the others in the fair protocol."""
    if method != "dynts":
        # R-KV's interval; the budget is what remains
        return create_method(method, tokens, evict_every=sizes.evict_every, protocol="fair")
    shape = PredictorShape.published(model.config.hidden_size)
    predictor = ImportancePredictor(shape).to(model.device, model.dtype).eval()
    options = dict(window=sizes.window, ratio=PAPER_RATIOS[name], pin_overflow="keep_first")
    return create_method(method, tokens, predictor=predictor, **options)


def engine_loop(
    model: PreTrainedModel, method: EvictionMethod, rows: int, capacity: int, sizes: Sizes, decoder: str = "graph"
) -> EngineLoop:
    """Our engine with a full batch; `TooLargeError` where it does not fit."""
    check_room(model, rows, capacity)
    return EngineLoop(model, method, rows, capacity, decoder=decoder, n_prompt=sizes.prompt_tokens)


def check_room(model: PreTrainedModel, rows: int, capacity: int) -> None:
    """Raise `TooLargeError`, which says how many rows fit, where these do not."""
    if rows < 1:
        raise TooLargeError(f"not even one row of {capacity} slots fits beside the weights")
    if rows > (fits := largest_batch(model, capacity, most=rows)):
        raise TooLargeError(f"{rows} rows of {capacity} slots do not fit beside the weights; {fits} do")


def cycle_lengths(method: EvictionMethod, sizes: Sizes) -> tuple[list[int], int]:
    """Lengths at which a step of a budget's cycle is measured, and the steps of a stretch."""
    peak, kept = method.schedule.peak_tokens, method.schedule.kept_tokens
    last = max(kept, peak - sizes.steps - sizes.warm_up)
    # a short cycle: what would run over its end begins earlier instead
    lengths = [n for n in sorted({kept, (kept + last) // 2, last}) if n <= last]
    return lengths, min(sizes.steps, peak - lengths[-1] - sizes.warm_up)


def step_samples(loop: EngineLoop, lengths: list[int], steps: int, sizes: Sizes) -> list[list[float]]:
    """Milliseconds of a step at each length, as often as a stretch is repeated."""
    return [[loop.mean_step_ms(n, steps, sizes.warm_up) for _ in range(sizes.repeats)] for n in lengths]


def eviction_samples(loop: EngineLoop, sizes: Sizes) -> list[float]:
    """Milliseconds of evicting one row; one more warms up."""
    rows = loop.state.cache.max_rows
    return [loop.evictions([[i % rows]])["wall"] for i in range(1 + sizes.repeats)][1:]


def budget_row(loop: EngineLoop, sizes: Sizes) -> dict[str, Any]:
    """Speed of one method under its budget, over a whole cycle of its rows."""
    schedule, rows = loop.method.schedule, loop.state.cache.max_rows
    lengths, steps = cycle_lengths(loop.method, sizes)
    samples = step_samples(loop, lengths, steps, sizes)
    ms, period = [median(s) for s in samples], schedule.period_steps
    evictions = eviction_samples(loop, sizes)
    evict = median(evictions)
    cycle_ms = period * mean_ms(lengths, ms) + rows * evict
    return dict(
        rows=rows,
        budget_tokens=schedule.budget,
        window=schedule.window,
        kept_tokens=schedule.kept_tokens,
        period_steps=period,
        step_lengths=lengths,
        step_ms=ms,
        step_ms_samples=samples,
        eviction_ms=evict,
        eviction_ms_samples=evictions,
        eviction_share=rows * evict / cycle_ms,
        decode_tps=rows * period / cycle_ms * 1e3,
        mean_slots=(schedule.kept_tokens + schedule.peak_tokens) / 2,
        **_of_loop(loop, lengths[-1], steps),
    )


def full_row(loop: EngineLoop, sizes: Sizes) -> dict[str, Any]:
    """Speed of the full cache at some lengths up to the longest, and over the whole way there."""
    longest = sizes.longest
    lengths = sorted({max(1, longest // 16), longest // 4, longest // 2, longest - sizes.steps - sizes.warm_up})
    row = row_at(loop.state.cache.max_rows, lengths, step_samples(loop, lengths, sizes.steps, sizes))
    return row | dict(mean_slots=(lengths[0] + lengths[-1]) / 2, **_of_loop(loop, lengths[-1], sizes.steps))


def baseline_row(model: PreTrainedModel, loop: type[Baseline], rows: int, length: int, steps: int, repeats: int):
    """Speed of a baseline over a DynamicCache that already holds `length` tokens a row."""
    samples = [loop(model, rows).stretch(length, steps, 2)["wall"] for _ in range(repeats)]
    return row_at(rows, [length], [samples])


def row_at(rows: int, lengths: list[int], samples: list[list[float]]) -> dict[str, Any]:
    """Speed over some lengths."""
    ms = [median(s) for s in samples]
    tps = rows / mean_ms(lengths, ms) * 1e3
    return dict(rows=rows, step_lengths=lengths, step_ms=ms, step_ms_samples=samples, decode_tps=tps)


def _of_loop(loop: EngineLoop, length: int, steps: int) -> dict[str, Any]:
    """Bytes that a step reads per slot and for the weights, which step ran, and the clocks while more such run."""
    model = loop.engine.model
    weights = weight_bytes(model, of_a_step=True)
    sizes = dict(kv_bytes=loop.kv_bytes, bytes_per_slot=loop.bytes_per_slot, weights_bytes=weights)
    sizes["clocks_under_load"] = clocks_under_load(lambda: loop.mean_step_ms(length, steps, 0))
    return sizes | which_step(loop.engine.decoder, model.device)


def which_step(decoder: Any, device: torch.device) -> dict[str, Any]:
    """The decoder that ran; whether it replayed graphs, None for one that captures nothing; whether kernels of this
    process are launched before their predecessors have ended; whether float32 products are TensorFloat-32.
    """
    found = {"decoder": decoder.name, "captured": getattr(decoder, "capture", None)}
    tf32 = device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return found | {"early_launches": pdl_allowed() and has_pdl(device), "tf32": tf32}
