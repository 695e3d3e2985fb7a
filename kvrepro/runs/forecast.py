"""What a profile costs before it is started: memory exactly as the engine allocates it, time measured or bounded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..benchmarks.table import benchmark_entry
from ..methods.learned.importance import PredictorShape
from ..methods.table import method_class
from ..models.memory import GIB, RESERVE_BYTES, rows_that_fit
from ..models.shapes import model_size
from ..models.table import model_entry, predictor_source
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


class CellSizes:
    """What a cell allocates, whatever it runs on.

    Attributes:
        model: sizes of its model.
        schedule: of its method; None for the full cache.
        longest_prompt: tokens; `prompt_source` says whether it is `exact` or `assumed`.
        capacity: slots of a row.
        rows: of a batch, at most the cell's replies.
        predictor_bytes: of the importance head, 0 for a method without one.

    Raises:
        KvreproError: a model whose configuration cannot be had, or that the cache refuses.
    """

    def __init__(self, config: CellConfig):
        self.config, self.entry = config, model_entry(config.model)
        self.model = model_size(self.entry)
        prompts, method = prompt_lengths(config), sized_method(config)
        self.schedule = method.schedule
        self.longest_prompt = ASSUMED_PROMPT_TOKENS if prompts is None else max(prompts.values())
        self.capacity = method.capacity_slots(self.longest_prompt, config.max_new_tokens)
        # where the schedule decides, the prompt's length does not matter
        decided = self.schedule is not None and self.capacity < self.longest_prompt + config.max_new_tokens
        self.prompt_source = ASSUMED if prompts is None and not decided else EXACT
        self.replies = (config.n_problems or benchmark_entry(config.benchmark).n_problems) * config.n_samples
        self.rows = min(config.batch_rows, self.replies)
        self.predictor_bytes = self._head_bytes()

    @property
    def kv_bytes(self) -> int:
        """K and V storage of the batch."""
        return self.rows * self.capacity * self.model.kv_bytes_per_token

    def room(self, machine: Machine) -> int:
        """Bytes that a machine has for the cache, beside weights, head and the reserve for a step."""
        reserve = RESERVE_BYTES["cpu" if machine.name.endswith("CPU") else "cuda"]
        return machine.memory_bytes - reserve - self.model.weights_bytes - self.predictor_bytes

    def largest_batch(self, machine: Machine) -> int:
        """The most rows that fit there."""
        return rows_that_fit(self.room(machine), self.model.kv_bytes_per_token, self.capacity, self.model.vocabulary)

    def problem(self, machine: Machine) -> str | None:
        """Why the cell does not run there as it stands, None if it does."""
        largest, longest, new_tokens = self.largest_batch(machine), self.longest_prompt, self.config.max_new_tokens
        if self.room(machine) <= 0:
            return (
                f"the weights ({self.model.weights_bytes / GIB:.1f} GiB) do not fit into "
                f"{machine.memory_bytes / GIB:.0f} GiB of {machine.name}: quantisation: 8bit or 4bit, or "
                "device_map: auto over several GPUs"
            )
        if largest < self.rows:
            lower = "nor does one row: lower max_new_tokens or use a budget"
            remedy = f"batch_rows: {largest} does" if largest else lower
            per_row = self.capacity * self.model.kv_bytes_per_token / GIB
            return f"{self.rows} rows of {per_row:.2f} GiB do not fit beside the weights on {machine.name}: {remedy}"
        if longest + new_tokens > self.model.max_positions:
            return (
                f"prompts of up to {longest} and {new_tokens} new tokens exceed the model's "
                f"{self.model.max_positions} positions: lower max_new_tokens"
            )
        return None

    def least_seconds(self, new_tokens: float, bandwidth: float) -> float:
        """Seconds for the cell if a step only read weights and cache, replies of so many tokens."""
        slots = self.longest_prompt + new_tokens / 2
        if self.schedule is not None:
            slots = min((self.schedule.kept_tokens + self.schedule.peak_tokens) / 2, slots)
        read = self.model.step_weights_bytes + self.rows * slots * self.model.kv_bytes_per_token
        return math.ceil(self.replies * new_tokens / self.rows) * read / bandwidth

    def _head_bytes(self) -> int:
        if "predictor" not in method_class(self.config.method).needs:
            return 0
        source = predictor_source(self.entry, self.config.predictor)
        known = None if source is None else PredictorShape.on_disk(source)
        return (known or PredictorShape.published(self.model.hidden)).parameters * self.model.element_bytes


def plan_cell(config: CellConfig, machine: Machine, known: list[PastCell]) -> CellForecast:
    """Sizes and times of one cell on one machine; nothing is loaded but configuration, tokenizer and rows.

    Raises:
        KvreproError: as `CellSizes`.
    """
    sizes = CellSizes(config)
    new_tokens, tokens_source = expected_tokens(config, known)
    tps, seconds, time_source = _time(sizes, machine, known, new_tokens)
    return CellForecast(
        cell_id=config.cell_id,
        config=config,
        weights_bytes=sizes.model.weights_bytes,
        predictor_bytes=sizes.predictor_bytes,
        batch_rows=sizes.rows,
        capacity_tokens=sizes.capacity,
        kv_bytes_per_token=sizes.model.kv_bytes_per_token,
        prompt_source=sizes.prompt_source,
        largest_batch=sizes.largest_batch(machine),
        new_tokens=new_tokens,
        tokens_source=tokens_source,
        tps=tps,
        seconds=seconds,
        time_source=time_source,
        disk_bytes=int(sizes.replies * new_tokens * BYTES_PER_TOKEN) + NOTEBOOK_BYTES,
        problem=sizes.problem(machine),
    )


def cache_bytes(config: CellConfig) -> int:
    """K, V and head that the cell will allocate beside the weights; for the check before anything is loaded."""
    sizes = CellSizes(config)
    return sizes.kv_bytes + sizes.predictor_bytes


def disk_bytes(config: CellConfig) -> int:
    """What the cell may write: every reply at its limit, twice while it is graded, and the notebook."""
    replies = (config.n_problems or benchmark_entry(config.benchmark).n_problems) * config.n_samples
    return 2 * replies * config.max_new_tokens * BYTES_PER_TOKEN + NOTEBOOK_BYTES


def _time(
    sizes: CellSizes, machine: Machine, known: list[PastCell], new_tokens: float
) -> tuple[float | None, float | None, str]:
    """Tokens a second, seconds for the cell, and what kind of number that is."""
    total = sizes.replies * new_tokens
    if machine.bandwidth is not None:
        # tokens are the same everywhere, speed is not: for another GPU only a table that the caller vouches for
        known = [m for m in known if m.source == GIVEN]
    if measured := expected_speed(sizes.config, known):
        tps, overhead, source = measured
        return tps, total / tps + overhead, source
    if machine.bandwidth is None:
        return None, None, NOTHING
    seconds = sizes.least_seconds(new_tokens, machine.bandwidth)
    return total / seconds, seconds, BOUND
