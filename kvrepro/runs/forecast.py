"""What a profile costs before it is started: memory exactly as the engine allocates it, time measured or bounded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..benchmarks.table import benchmark_entry
from ..methods.learned.importance import PredictorShape
from ..methods.table import method_class
from ..models.memory import GIB, RESERVE_BYTES, rows_that_fit
from ..models.shapes import ModelSize, model_size
from ..models.table import ModelEntry, model_entry, predictor_source
from .config import CellConfig
from .machines import Machine
from .past_cells import BOUND, GIVEN, NOTHING, PastCell, expected_speed, expected_tokens
from .resolution import prompt_lengths, sized_method

EXACT, ASSUMED = "exact", "assumed"
# where tokenizer or rows are not on this machine; only cells without a budget depend on it
ASSUMED_PROMPT_TOKENS = 1024
# text of a reply with its fields, and the executed notebook
BYTES_PER_TOKEN, NOTEBOOK_BYTES = 5, 60_000


@dataclass(frozen=True)
class CellForecast:
    """One cell. Sizes in bytes, times in seconds; `kv_bytes` is batch_rows x capacity_tokens x kv_bytes_per_token.

    `predictor_bytes` is the head's in the model's dtype, of the published widths where no head is named or at hand.
    `prompt_source` is `exact` or `assumed`. `tokens_source` and `time_source` are one of the three kinds of `measured`,
    or: `limit` (every reply runs to max_new_tokens), `bound` (what a step must read, weights
    and cache, at the data sheet's bandwidth: no run is faster, real ones are slower), `unknown`.
    """

    cell_id: str
    config: CellConfig
    weights_bytes: int
    predictor_bytes: int
    batch_rows: int
    capacity_tokens: int
    kv_bytes_per_token: int
    prompt_source: str
    largest_batch: int
    new_tokens: float
    tokens_source: str
    tps: float | None
    seconds: float | None
    time_source: str
    disk_bytes: int
    problem: str | None

    @property
    def kv_bytes(self) -> int:
        """K and V storage that the engine allocates."""
        return self.batch_rows * self.capacity_tokens * self.kv_bytes_per_token

    @property
    def memory_bytes(self) -> int:
        """Weights, predictor and cache, without the reserve for a step."""
        return self.weights_bytes + self.predictor_bytes + self.kv_bytes


def plan_cell(config: CellConfig, machine: Machine, known: list[PastCell]) -> CellForecast:
    """Sizes and times of one cell on one machine; nothing is loaded but configuration, tokenizer and rows.

    Raises:
        KvreproError: a model whose configuration cannot be had, or that the cache refuses.
    """
    entry = model_entry(config.model)
    size = model_size(entry)
    prompts = prompt_lengths(config)
    longest, prompt_source = (ASSUMED_PROMPT_TOKENS, ASSUMED) if prompts is None else (max(prompts.values()), EXACT)
    method = sized_method(config)
    capacity = method.capacity_slots(longest, config.max_new_tokens)
    if capacity < longest + config.max_new_tokens and method.schedule is not None:
        # the schedule decides: the prompt's length does not matter
        prompt_source = EXACT
    replies = (config.n_problems or benchmark_entry(config.benchmark).n_problems) * config.n_samples
    rows = min(config.batch_rows, replies)
    predictor = _head_bytes(config, entry, size)
    reserve = RESERVE_BYTES["cpu" if machine.name.endswith("CPU") else "cuda"]
    room = machine.memory_bytes - reserve - size.weights_bytes - predictor
    largest = rows_that_fit(room, size.kv_bytes_per_token, capacity, size.vocabulary)
    new_tokens, tokens_source = expected_tokens(config, known)
    tps, seconds, time_source = _time(config, size, machine, known, rows, replies, new_tokens, longest, method.schedule)
    return CellForecast(
        config.cell_id, config, size.weights_bytes, predictor, rows, capacity, size.kv_bytes_per_token, prompt_source,
        largest, new_tokens, tokens_source, tps, seconds, time_source,
        int(replies * new_tokens * BYTES_PER_TOKEN) + NOTEBOOK_BYTES,
        _problem(config, size, machine, room, largest, rows, capacity, longest),
    )  # fmt: skip


def cache_bytes(config: CellConfig) -> int:
    """K, V and head that the cell will allocate beside the weights; for the check before anything is loaded."""
    plan = plan_cell(config, Machine("any", 1 << 62, None), [])
    return plan.memory_bytes - plan.weights_bytes


def _head_bytes(config: CellConfig, entry: ModelEntry, size: ModelSize) -> int:
    if "predictor" not in method_class(config.method).needs:
        return 0
    source = predictor_source(entry, config.predictor)
    known = None if source is None else PredictorShape.on_disk(source)
    return (known or PredictorShape.published(size.hidden)).parameters * size.element_bytes


def disk_bytes(config: CellConfig) -> int:
    """What the cell may write: every reply at its limit, twice while it is graded, and the notebook."""
    replies = (config.n_problems or benchmark_entry(config.benchmark).n_problems) * config.n_samples
    return 2 * replies * config.max_new_tokens * BYTES_PER_TOKEN + NOTEBOOK_BYTES


def _problem(
    config: CellConfig, size: ModelSize, machine: Machine, room: int, largest: int, rows: int, capacity: int,
    longest: int,
) -> str | None:  # fmt: skip
    """Why the cell does not run as it stands, None if it does."""
    if room <= 0:
        return (
            f"the weights ({size.weights_bytes / GIB:.1f} GiB) do not fit into {machine.memory_bytes / GIB:.0f} GiB of "
            f"{machine.name}: quantisation: 8bit or 4bit, or device_map: auto over several GPUs"
        )
    if largest < rows:
        remedy = f"batch_rows: {largest} does" if largest else "nor does one row: lower max_new_tokens or use a budget"
        per_row = capacity * size.kv_bytes_per_token / GIB
        return f"{rows} rows of {per_row:.2f} GiB do not fit beside the weights on {machine.name}: {remedy}"
    if longest + config.max_new_tokens > size.max_positions:
        return (
            f"prompts of up to {longest} and {config.max_new_tokens} new tokens exceed the model's "
            f"{size.max_positions} positions: lower max_new_tokens"
        )
    return None


def _time(
    config: CellConfig, size: ModelSize, machine: Machine, known: list[PastCell], rows: int, replies: int,
    new_tokens: float, longest: int, schedule,
) -> tuple[float | None, float | None, str]:  # fmt: skip
    """Tokens a second, seconds for the cell, and what kind of number that is."""
    total = replies * new_tokens
    if machine.bandwidth is not None:
        # tokens are the same everywhere, speed is not: for another GPU only a table that the caller vouches for
        known = [m for m in known if m.source == GIVEN]
    if measured := expected_speed(config, known):
        tps, overhead, source = measured
        return tps, total / tps + overhead, source
    if machine.bandwidth is None:
        return None, None, NOTHING
    if schedule is None:
        slots = longest + new_tokens / 2
    else:
        slots = min((schedule.kept_tokens + schedule.peak_tokens) / 2, longest + new_tokens / 2)
    read = size.step_weights_bytes + rows * slots * size.kv_bytes_per_token
    seconds = math.ceil(total / rows) * read / machine.bandwidth
    return total / seconds, seconds, BOUND
