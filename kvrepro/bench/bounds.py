"""What memory alone allows: speed, largest batch and the predictor's price, from sizes; nothing here is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ..methods.budgets import Schedule
from ..methods.learned.importance import PredictorShape
from ..models.memory import RESERVE_BYTES, rows_that_fit, step_bytes
from ..models.shapes import SHAPES, ModelSize, model_size, true_shape
from ..models.table import MODELS
from ..runs.machines import GPUS
from ..runs.resolution import ASSUMED_PROMPT_TOKENS
from .head_cost import break_even
from .settings import PAPER_RATIOS, PAPER_ROWS, PAPER_WINDOW

TITLES = {name: MODELS[row].title for name, row in SHAPES.items()}
# copy rate assumed of an H100, bytes per second; its data sheet says 3.35e12
H100_COPY = 3.0e12


@dataclass(frozen=True)
class ModelBytes:
    """Sizes of a published model in bfloat16, `r1-llama-8b` or `r1-qwen-7b`; no weight is allocated."""

    name: str

    @property
    def size(self) -> ModelSize:
        """Its bytes and tokens."""
        return model_size(MODELS[SHAPES[self.name]])

    @property
    def head_weights(self) -> int:
        """Weights of the published importance head on this model."""
        return PredictorShape.published(self.size.hidden).parameters

    def schedule(self, budget: int) -> Schedule:
        """The paper's window and ratio under a budget."""
        return Schedule(budget, PAPER_WINDOW, PAPER_RATIOS[self.name])


def bound_by_budget(
    models: Sequence[ModelBytes], budgets: Sequence[int], rows: int = PAPER_ROWS, bytes_per_s: float = H100_COPY
) -> pd.DataFrame:
    """The most tokens per second that reading weights and cache once a step allows.

    Returns:
        Columns model, budget_tokens, mean_slots (between an eviction and the budget), bound_ms, bound_tps.
    """
    columns, found = ["model", "budget_tokens", "mean_slots", "bound_ms", "bound_tps"], []
    for m in models:
        for budget in budgets:
            slots = (m.schedule(budget).kept_tokens + budget) / 2
            seconds = step_bytes(m.size.step_weights_bytes, m.size.kv_bytes_per_token, rows, slots) / bytes_per_s
            found.append([TITLES[m.name], budget, slots, 1e3 * seconds, rows / seconds])
    return pd.DataFrame(found, columns=columns)


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
        head = m.head_weights * m.size.element_bytes
        sizes = [(float(b), m.schedule(b).peak_tokens, room - head) for b in budgets]
        for budget, slots, free in [*sizes, (float("nan"), ASSUMED_PROMPT_TOKENS + new_tokens, room)]:
            rows = rows_that_fit(free, m.size.kv_bytes_per_token, slots, m.size.vocabulary)
            found.append([TITLES[m.name], budget, slots, rows])
    return pd.DataFrame(found, columns=["model", "budget_tokens", "slots", "rows"])


def head_break_even(models: Sequence[ModelBytes], batches: Sequence[int]) -> pd.DataFrame:
    """Evicted slots per row that pay for the importance head, by operations and by bytes moved, per batch.

    Returns:
        Columns model, rows, head_weights, by_operations, by_bytes.
    """
    found = []
    for m in models:
        for rows in batches:
            even = break_even(true_shape(m.name), m.head_weights, rows, 2)
            found.append([TITLES[m.name], rows, m.head_weights, even.operations, even.bytes_moved])
    return pd.DataFrame(found, columns=["model", "rows", "head_weights", "by_operations", "by_bytes"])
