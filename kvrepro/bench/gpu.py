"""Decode speed of `kvrepro gpu-check`, in parts that can be measured in seconds, and what they add up to.

A row of budget C lives in a cycle: from `kept` slots after an eviction up to `peak`, one token per step. The time of
a step is measured at the ends and in the middle of the cycle over caches that were filled beforehand, the eviction on
its own; speed is rows * period / (sum of the steps + one eviction per row). The same is done for the baselines at
given lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from ..cache.shape import CacheShape
from ..errors import KvreproError
from ..methods.base import EvictionMethod
from ..methods.learned.importance import ImportancePredictor, PredictorShape
from ..methods.table import create_method
from ..models.memory import rows_that_fit, step_bytes
from ..models.shapes import build, true_shape, weight_bytes
from .baselines import Baseline, Generate, ReferenceLoop
from .engine_loop import EngineLoop
from .settings import PAPER_RATIOS, PAPER_WINDOW

BUDGETS = (2500, 3000, 3500, 4000, 4500, 5000, 5500, 6000)
OTHER_METHODS, OTHER_BUDGET = ("window", "snapkv", "rkv", "h2o"), 5000
EVICT_EVERY, LONGEST, WINDOW = 128, 16384, PAPER_WINDOW
# a prompt of the usual length, for methods that pin it
PROMPT_TOKENS = 200
# of a stretch: steps that are timed, and those before
STEPS, WARM_UP = 16, 3
# left free beside weights and cache: logits, graphs, the workspaces of the library
RESERVED_BYTES = 4 * 2**30


class TooLargeError(KvreproError):
    """A batch that does not fit into the memory of the device."""


def mean_ms(lengths: list[int], ms: list[float]) -> float:
    """Mean over the lengths between the first and the last, straight lines between what was measured."""
    area = torch.trapezoid(torch.tensor(ms, dtype=torch.float64), torch.tensor(lengths)).item()
    return ms[0] if len(lengths) == 1 else area / (lengths[-1] - lengths[0])


def largest_batch(model: PreTrainedModel, capacity: int, most: int = 512) -> int:
    """Rows of `capacity` slots that fit into the free memory of the model's GPU, 0 if not even one does."""
    shape = CacheShape.of(model.config)
    slot = 2 * shape.layers * shape.kv_heads * shape.head_dim * model.dtype.itemsize
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(model.device)
    return min(most, rows_that_fit(free - RESERVED_BYTES, slot, capacity, model.config.vocab_size))


def engine_loop(
    model: PreTrainedModel, method: EvictionMethod, rows: int, capacity: int, decoder: str = "graph"
) -> EngineLoop:
    """Our engine with a full batch.

    Raises:
        TooLargeError: it does not fit; says how many rows do.
    """
    if model.device.type == "cuda" and rows > (fits := largest_batch(model, capacity, most=rows)):
        raise TooLargeError(f"{rows} rows of {capacity} slots do not fit beside the weights; {fits} do")
    if not rows:
        raise TooLargeError(f"not even one row of {capacity} slots fits beside the weights")
    return EngineLoop(model, method, rows, capacity, decoder=decoder, n_prompt=PROMPT_TOKENS)


def budget_row(model: PreTrainedModel, method: EvictionMethod, rows: int, decoder: str = "graph") -> dict[str, Any]:
    """Speed of one method under its budget, over a whole cycle of its rows."""
    schedule = method.schedule
    peak, kept, period = schedule.peak_tokens, schedule.kept_tokens, schedule.period_steps
    loop = engine_loop(model, method, rows, peak, decoder)
    last = max(kept, peak - STEPS - WARM_UP)
    # a short cycle: what would run over its end begins earlier instead
    lengths = [n for n in sorted({kept, (kept + last) // 2, last}) if n <= last]
    steps = min(STEPS, peak - lengths[-1] - WARM_UP)
    ms = [loop.mean_step_ms(n, steps, WARM_UP) for n in lengths]
    evict = loop.evictions([[row] for row in range(min(3, rows))])["wall"]
    cycle_ms = period * mean_ms(lengths, ms) + rows * evict
    return dict(
        rows=rows,
        budget_tokens=schedule.budget,
        window=schedule.window,
        kept_tokens=kept,
        period_steps=period,
        step_lengths=lengths,
        step_ms=ms,
        eviction_ms=evict,
        eviction_share=rows * evict / cycle_ms,
        decode_tps=rows * period / cycle_ms * 1e3,
        mean_slots=(kept + peak) / 2,
        kv_bytes=loop.kv_bytes,
        bytes_per_slot=loop.bytes_per_slot,
    )


def full_row(model: PreTrainedModel, rows: int) -> dict[str, Any]:
    """Speed of the full cache at some lengths up to `LONGEST`, and over the whole way there."""
    loop = engine_loop(model, create_method("full"), rows, LONGEST)
    lengths = sorted({max(1, LONGEST // 16), LONGEST // 4, LONGEST // 2, LONGEST - STEPS - WARM_UP})
    row = _row_at(rows, lengths, [loop.mean_step_ms(n, STEPS, WARM_UP) for n in lengths])
    mean_slots = (lengths[0] + lengths[-1]) / 2
    return row | dict(mean_slots=mean_slots, kv_bytes=loop.kv_bytes, bytes_per_slot=loop.bytes_per_slot)


def baseline_row(model: PreTrainedModel, loop: type[Baseline], rows: int, length: int, steps: int) -> dict[str, Any]:
    """Speed of a baseline over a DynamicCache that already holds `length` tokens a row."""
    ms = loop(model, rows).stretch(length, steps, 2)["wall"]
    return _row_at(rows, [length], [ms])


def _row_at(rows: int, lengths: list[int], ms: list[float]) -> dict[str, Any]:
    return dict(rows=rows, step_lengths=lengths, step_ms=ms, decode_tps=rows / mean_ms(lengths, ms) * 1e3)


def with_bound(row: dict[str, Any], weight_bytes: int, copy_bytes_per_s: float) -> dict[str, Any]:
    """Add the speed at which memory alone would limit this row, and the fraction of it that was reached."""
    read = step_bytes(weight_bytes, row["bytes_per_slot"], row["rows"], row["mean_slots"])
    bound = row["rows"] * copy_bytes_per_s / read
    return row | dict(bound_tps=bound, fraction_of_bound=row["decode_tps"] / bound)


def decode_rows(name: str, rows: int, copy_bytes_per_s: float, part: Callable[..., None], device: str = "cuda") -> None:
    """All decode rows of one published shape; what the bars are set on comes first, in case time runs out.

    Args:
        part: called with a row's name, a function that measures it, and its labels.
    """
    torch.manual_seed(0)
    model = build(true_shape(name), device, "bfloat16")
    weights, shape = weight_bytes(model, of_a_step=True), PredictorShape.published(model.config.hidden_size)
    predictor = ImportancePredictor(shape).to(device, model.dtype).eval()

    def budget(method: str, tokens: int, batch: int = rows, decoder: str = "graph") -> dict[str, Any]:
        if method == "dynts":
            made = create_method(method, tokens, window=WINDOW, ratio=PAPER_RATIOS[name], predictor=predictor)
        else:
            # R-KV's interval; the budget is what remains
            made = create_method(method, tokens, evict_every=EVICT_EVERY, protocol="fair")
        return with_bound(budget_row(model, made, batch, decoder), weights, copy_bytes_per_s)

    def add(title: str, method: str, measure: Callable[..., dict[str, Any]], *given: Any) -> None:
        part(title, lambda: measure(*given), method=method, model=name)

    def full(batch: int) -> dict[str, Any]:
        return with_bound(full_row(model, batch), weights, copy_bytes_per_s)

    first = (BUDGETS[0], OTHER_BUDGET)
    for tokens in (*first, *(b for b in BUDGETS if b not in first)):
        add(f"dynts C={tokens}", "dynts", budget, "dynts", tokens)
    add("full cache", "full", full, rows)
    add("eager concat", "eager", baseline_row, model, ReferenceLoop, rows, sum(first) // 2, 6)
    add("generate sdpa", "generate", baseline_row, model, Generate, rows, sum(first) // 2, 16)
    largest, most = largest_batch(model, BUDGETS[0] + 1), largest_batch(model, LONGEST)
    add(f"dynts C={BUDGETS[0]} B={largest}", "dynts", budget, "dynts", BUDGETS[0], largest)
    add(f"full cache B={most}", "full", full, most)
    for method in OTHER_METHODS:
        add(f"{method} C={OTHER_BUDGET}", method, budget, method, OTHER_BUDGET)
    add(f"dynts C={OTHER_BUDGET} eager step", "dynts", budget, "dynts", OTHER_BUDGET, rows, "fused")
    for length in (LONGEST // 4, LONGEST - 64):
        add(f"eager concat n={length}", "eager", baseline_row, model, ReferenceLoop, rows, length, 4)
        add(f"generate sdpa n={length}", "generate", baseline_row, model, Generate, rows, length, 8)
