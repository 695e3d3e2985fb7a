"""What the predictor costs per decode step, and from which length on an eviction pays for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
import pandas as pd
import torch

from ..cache.attention import slot_attention
from ..cache.shape import CacheShape
from ..cache.slots import CompressedCache
from ..engine.decoders.choose import make_decoder
from ..errors import KvreproError
from .laps import in_turn, timed

# rounds that warm up
WARM_UP = 2


@dataclass(frozen=True)
class BreakEven:
    """Evicted slots per row whose attention costs as much as the head, by three accounts.

    Attributes:
        measured: from timed steps of this machine; None where attention time does not grow with the length.
        operations: head weights against attention, multiplications only, batch 1: `2 * weights / (4 * L * Hq * D)`.
        bytes_moved: bytes of the head's weights against bytes of one slot of every row: what counts where decoding
            waits for memory.
    """

    measured: float | None
    operations: float
    bytes_moved: float


def step_costs(model, head, lengths: Sequence[int], *, rows: int = 8, repeats: int = 20) -> pd.DataFrame:
    """Median seconds of one decode step and of the head alone, by the number of cached slots per row.

    The cache holds noise: time does not depend on values. All lengths are timed in turn, so that a slow moment of the
    machine falls on all of them.

    Returns:
        Columns slots, step_s, head_s, rows.
    """
    if min(lengths) < 1 or repeats < 1:
        raise KvreproError(f"lengths={list(lengths)}, repeats={repeats}: both start at 1")
    decoder = make_decoder(model)
    cache = CompressedCache(model.config, rows, max(lengths) + 1, dtype=model.dtype, device=model.device)
    shape = cache.shape
    noise = torch.randn(2, shape.layers, shape.kv_heads, max(lengths), shape.head_dim).to(model.device, model.dtype)
    tokens = torch.full((rows,), 5, device=model.device)
    hidden = torch.randn(rows, head.shape.hidden).to(next(head.parameters()))

    def step_ms(n: int) -> float:
        cache.reset()
        for _ in range(rows):
            cache.admit(noise[0, :, :, :n], noise[1, :, :, :n])
        return timed(partial(decoder.step, tokens, cache), model.device)["wall"]

    works = {n: partial(step_ms, n) for n in lengths}
    works |= {"head": lambda: timed(partial(head, hidden), model.device)["wall"]}
    with torch.inference_mode(), slot_attention(model, cache):
        rounds = list(in_turn(works, repeats + WARM_UP))[WARM_UP:]
    seconds = {name: median(found[name] for found in rounds) / 1e3 for name in works}
    return pd.DataFrame([{"slots": n, "step_s": seconds[n], "head_s": seconds["head"], "rows": rows} for n in lengths])


def saved_slots(n_prompt: int, peak: int, kept: int, n_steps: int) -> pd.DataFrame:
    """What a row attends to at every decode step under a budget, beside the full cache.

    Args:
        n_prompt: prompt tokens. peak: slots at which a row is compacted (`schedule.peak_tokens`). kept: slots that
            remain then (`schedule.kept_tokens`). n_steps: new tokens.

    Returns:
        Columns step (from 1), held, saved: slots per row.

    Raises:
        KvreproError: the prompt alone fills the peak, which no run serves.
    """
    if n_prompt >= peak:
        raise KvreproError(f"n_prompt={n_prompt}, peak={peak}: a prompt must leave a slot free")
    step = np.arange(1, n_steps + 1)
    # the new token has been attended to before the row shrinks
    before = n_prompt + step - 1
    held = 1 + np.where(before < peak, before, kept + (before - kept) % (peak - kept))
    return pd.DataFrame({"step": step, "held": held, "saved": n_prompt + step - held})


def break_even_length(saved: pd.DataFrame, even: float) -> int | None:
    """Shortest reply, tokens, after which all slots saved so far have paid for the head at all steps so far.

    Args:
        saved: of `saved_slots`.
        even: evicted slots that cost as much as the head, an account of `BreakEven`.

    Returns:
        A number of steps; None where the replies of `saved` are too short for it.
    """
    paid = saved.step[saved.saved.cumsum() >= even * saved.step]
    return int(paid.iloc[0]) if len(paid) else None


def break_even(config, head_weights: int, rows: int, bytes_per_weight: int, costs: pd.DataFrame | None = None):
    """`BreakEven` of a model's configuration and a head of `head_weights` weights.

    Source: derived here (docs/predictor.md#break-even); the paper's own formula was not at hand.

    Args:
        rows: batch; the head's weights are read once for all rows, a slot's keys and values once per row.
        costs: of `step_costs`; without it nothing is measured.
    """
    shape = CacheShape.of(config)
    operations = 2 * head_weights / (4 * shape.layers * shape.q_heads * shape.head_dim)
    slot_bytes = 2 * shape.layers * shape.kv_heads * shape.head_dim * bytes_per_weight
    bytes_moved = head_weights * bytes_per_weight / (rows * slot_bytes)
    measured = None
    if costs is not None:
        # least squares on the medians
        slope, _ = np.polyfit(costs.slots, costs.step_s, 1)
        measured = float(costs.head_s.iloc[0] / slope) if slope > 0 else None
    return BreakEven(measured, operations, bytes_moved)


def cost_sentences(costs: pd.DataFrame, even: BreakEven, saved: pd.DataFrame) -> list[str]:
    """What the head adds to a step, and the reply length after which the evictions have paid for it.

    Args:
        costs: of `step_costs`. even: of `break_even`. saved: of `saved_slots`.
    """
    last = costs.iloc[-1]
    step_ms, head_ms = 1e3 * last.step_s, 1e3 * last.head_s
    found = [
        f"With {last.slots:,.0f} slots in each of {last.rows:,.0f} rows a step takes {step_ms:.2f} ms and the head "
        f"{head_ms:.2f} ms, {100 * head_ms / step_ms:.0f} % of it."
    ]
    if even.measured is None:
        return [*found, "Here a step does not become slower with more slots, so no eviction pays for the head."]
    length = break_even_length(saved, even.measured)
    paid = f"not in {len(saved):,} tokens" if length is None else f"after {length:,} tokens"
    return [
        *found,
        f"As timed, {even.measured:,.0f} evicted slots per row save as much as the head costs; over a whole reply the "
        f"evictions have paid for it {paid}.",
    ]
