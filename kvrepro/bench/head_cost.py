"""What the predictor costs per decode step, and from which length on an eviction pays for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from ..cache.attention import slot_attention
from ..cache.shape import CacheShape
from ..cache.slots import CompressedCache
from ..engine.decoders.choose import make_decoder
from ..errors import KvreproError
from .step_timer import Laps

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


def step_costs(model, head, lengths: Sequence[int], *, rows: int = 8, repeats: int = 20, seed: int = 0) -> pd.DataFrame:
    """Median seconds of one decode step and of the head alone, by the number of cached slots per row.

    The cache holds noise: time does not depend on values. All lengths are timed in turn, so that a slow moment of the
    machine falls on all of them.

    Returns:
        Columns slots, step_s, head_s, rows.
    """
    if min(lengths) < 1 or repeats < 1:
        raise KvreproError(f"lengths={list(lengths)}, repeats={repeats}: both start at 1")
    generator = torch.Generator().manual_seed(seed)
    decoder = make_decoder(model)
    cache = CompressedCache(model.config, rows, max(lengths) + 1, dtype=model.dtype, device=model.device)
    shape = cache.shape
    noise = torch.randn(2, shape.layers, shape.kv_heads, max(lengths), shape.head_dim, generator=generator)
    noise = noise.to(model.device, model.dtype)
    tokens = torch.full((rows,), 5, device=model.device)
    hidden = torch.randn(rows, head.shape.hidden, generator=generator).to(next(head.parameters()))
    laps = {n: Laps(model.device) for n in (*lengths, "head")}
    with torch.inference_mode(), slot_attention(model, cache):
        for _ in range(repeats + WARM_UP):
            for n in lengths:
                cache.reset()
                for _ in range(rows):
                    cache.admit(noise[0, :, :, :n], noise[1, :, :, :n])
                laps[n].start()
                decoder.step(tokens, cache)
                laps[n].lap()
            laps["head"].start()
            head(hidden)
            laps["head"].lap()
    for lap in laps.values():
        lap.drop(WARM_UP)
    seconds = {n: lap.medians()["wall"] / 1e3 for n, lap in laps.items()}
    return pd.DataFrame([{"slots": n, "step_s": seconds[n], "head_s": seconds["head"], "rows": rows} for n in lengths])


def seconds_per_slot(costs: pd.DataFrame) -> tuple[float, float]:
    """Slope and intercept of step time over slots, by least squares on the medians."""
    slope, intercept = np.polyfit(costs.slots.to_numpy(float), costs.step_s.to_numpy(float), 1)
    return float(slope), float(intercept)


def saved_slots(n_prompt: int, peak: int, kept: int, n_steps: int) -> pd.DataFrame:
    """What a row attends to at every decode step under a budget, beside the full cache.

    Args:
        n_prompt: prompt tokens. peak: slots at which a row is compacted (`schedule.peak_tokens`). kept: slots that
            remain then (`schedule.kept_tokens`). n_steps: new tokens.

    Returns:
        Columns step (from 1), held, saved: slots per row.
    """
    held, rows = n_prompt, []
    for step in range(1, n_steps + 1):
        held += 1
        rows.append({"step": step, "held": held, "saved": n_prompt + step - held})
        if held >= peak:
            # the new token has been attended to; the rest of the cache shrinks after it
            held = min(held, kept)
    return pd.DataFrame(rows)


def break_even_length(saved: pd.DataFrame, even: float | None) -> int | None:
    """Shortest reply, tokens, after which all slots saved so far have paid for the head at all steps so far.

    Args:
        saved: of `saved_slots`.
        even: evicted slots that cost as much as the head, an account of `BreakEven`; None where it is unknown.

    Returns:
        A number of steps; None where the replies of `saved` are too short for it.
    """
    if even is None:
        return None
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
        slope, _ = seconds_per_slot(costs)
        measured = float(costs.head_s.iloc[0]) / slope if slope > 0 else None
    return BreakEven(measured, operations, bytes_moved)
