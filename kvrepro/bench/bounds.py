"""What memory alone allows: speed, largest batch and the predictor's price, from sizes; nothing here is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ..methods.budgets import Schedule
from ..methods.learned.importance import PredictorShape
from ..models.memory import RESERVE_BYTES, rows_that_fit
from ..models.random_weights import true_shape
from ..models.shapes import ModelSize, model_size
from ..models.table import MODELS
from ..runs.forecast import ASSUMED_PROMPT_TOKENS
from ..runs.machines import GPUS
from .head_cost import break_even

# local window and ratio of the paper per model (docs/budgets.md#published-settings), and its batch
WINDOW, RATIOS, PAPER_ROWS = 2000, {"r1-llama-8b": 0.3, "r1-qwen-7b": 0.4}, 20
# rows of the model table that have these shapes
ROWS = {"r1-llama-8b": MODELS["r1-llama"], "r1-qwen-7b": MODELS["r1-qwen"]}
TITLES = {name: entry.title for name, entry in ROWS.items()}
# copy rate assumed of an H100, bytes per second; its data sheet says 3.35e12
H100_COPY = 3.0e12


@dataclass(frozen=True)
class ModelBytes:
    """Sizes and configuration of a published model in bfloat16."""

    name: str
    size: ModelSize
    config: object

    @classmethod
    def of(cls, name: str) -> ModelBytes:
        """`r1-llama-8b` or `r1-qwen-7b`; no weight is allocated."""
        return cls(name, model_size(ROWS[name]), true_shape(name))


def dynts_schedule(name: str, budget: int) -> Schedule:
    """The paper's window and ratio under a budget."""
    return Schedule(budget, WINDOW, RATIOS[name])


def bound_by_budget(
    models: Sequence[ModelBytes], budgets: Sequence[int], rows: int = PAPER_ROWS, bytes_per_s: float = H100_COPY
) -> pd.DataFrame:
    """The most tokens per second that reading weights and cache once a step allows.

    Returns:
        Columns model, budget_tokens, mean_slots (between an eviction and the budget), bound_ms, bound_tps.
    """
    found = []
    for m in models:
        for budget in budgets:
            schedule = dynts_schedule(m.name, budget)
            slots = (schedule.kept_tokens + schedule.budget) / 2
            seconds = (m.size.step_weights_bytes + m.size.kv_bytes_per_token * rows * slots) / bytes_per_s
            found.append(
                {"model": TITLES[m.name], "budget_tokens": budget, "mean_slots": slots, "bound_ms": 1e3 * seconds,
                 "bound_tps": rows / seconds}
            )  # fmt: skip
    return pd.DataFrame(found)


def largest_batch(
    models: Sequence[ModelBytes], budgets: Sequence[int], new_tokens: int = 16384, gpu: str = "h100"
) -> pd.DataFrame:
    """Rows that fit beside weights and head, as `kvrepro plan` counts them.

    Per budget, and for the full cache (budget_tokens NaN, no head) after a prompt of the length that a plan assumes
    and `new_tokens`.

    Returns:
        Columns model, budget_tokens, slots (per row at its peak), rows.
    """
    found = []
    for m in models:
        room = GPUS[gpu].memory_bytes - RESERVE_BYTES["cuda"] - m.size.weights_bytes
        head = PredictorShape.published(m.size.hidden).parameters * m.size.element_bytes
        sizes = [(b, dynts_schedule(m.name, b).peak_tokens, room - head) for b in budgets]
        for budget, slots, free in [*sizes, (None, ASSUMED_PROMPT_TOKENS + new_tokens, room)]:
            rows = rows_that_fit(free, m.size.kv_bytes_per_token, slots, m.size.vocabulary)
            found.append(
                {"model": TITLES[m.name], "budget_tokens": float("nan") if budget is None else float(budget),
                 "slots": slots, "rows": rows}
            )  # fmt: skip
    return pd.DataFrame(found)


def head_break_even(models: Sequence[ModelBytes], batches: Sequence[int]) -> pd.DataFrame:
    """Evicted slots per row that pay for the importance head, by operations and by bytes moved, per batch.

    Returns:
        Columns model, rows, head_weights, by_operations, by_bytes.
    """
    found = []
    for m in models:
        weights = PredictorShape.published(m.size.hidden).parameters
        for rows in batches:
            even = break_even(m.config, weights, rows, 2)
            found.append(
                {"model": TITLES[m.name], "rows": rows, "head_weights": weights, "by_operations": even.operations,
                 "by_bytes": even.bytes_moved}
            )  # fmt: skip
    return pd.DataFrame(found)
