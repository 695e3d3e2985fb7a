"""What a profile costs before it is started: memory exactly as the engine allocates it, time measured or bounded."""

from __future__ import annotations

import math
from typing import Any

from ..benchmarks.table import benchmark_entry
from ..methods.learned.importance import PredictorShape
from ..methods.table import method_class
from ..models.memory import GIB, RESERVE_BYTES, rows_that_fit, step_bytes
from ..models.shapes import ModelSize, model_size
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


class CellForecast:
    """One cell on one machine. Sizes in bytes, times in seconds; nothing is loaded but what sizes are read from.

    Attributes:
        weights_bytes, predictor_bytes: of the model, and of the importance head in its dtype (of the published widths
            where no head is named or at hand; 0 for a method without one).
        batch_rows: at most the cell's replies. `largest_batch`: the most rows that the machine has room for.
        capacity_tokens, kv_bytes_per_token: slots of a row, and what a slot takes over all layers.
        prompt_source: `exact` or `assumed`.
        new_tokens, tps, seconds: of a reply, a second and the cell; None where nothing is known.
        tokens_source, time_source: where a number was `measured` (see `past_cells`), or: `limit` (every reply runs to
            max_new_tokens), `bound` (what a step must read, weights and cache, at the data sheet's bandwidth: no run
            is faster, real ones are slower), `unknown`.
        disk_bytes: what the cell writes.
        problem: why it does not run as it stands, None if it does.

    Raises:
        KvreproError: a model whose configuration cannot be had, or that the cache refuses.
    """

    def __init__(self, config: CellConfig, machine: Machine, known: list[PastCell]):
        self.cell_id, self.config, self._machine = config.cell_id, config, machine
        self._size = size = model_size(model_entry(config.model))
        self.weights_bytes, self.predictor_bytes = size.weights_bytes, _head_bytes(config, size)
        self.kv_bytes_per_token = size.kv_bytes_per_token
        prompts, method = prompt_lengths(config), sized_method(config)
        self._schedule = method.schedule
        self._longest = ASSUMED_PROMPT_TOKENS if prompts is None else max(prompts.values())
        self.capacity_tokens = method.capacity_slots(self._longest, config.max_new_tokens)
        # where the schedule decides, the prompt's length does not matter
        decided = method.schedule is not None and self.capacity_tokens < self._longest + config.max_new_tokens
        self.prompt_source = ASSUMED if prompts is None and not decided else EXACT
        self._replies = _n_replies(config)
        self.batch_rows = min(config.batch_rows, self._replies)
        reserve = RESERVE_BYTES["cpu" if machine.name.endswith("CPU") else "cuda"]
        self._room = machine.memory_bytes - reserve - self.weights_bytes - self.predictor_bytes
        self.largest_batch = rows_that_fit(self._room, self.kv_bytes_per_token, self.capacity_tokens, size.vocabulary)
        self.new_tokens, self.tokens_source = expected_tokens(config, known)
        self.tps, self.seconds, self.time_source = self._time(known)
        self.disk_bytes = int(self._replies * self.new_tokens * BYTES_PER_TOKEN) + NOTEBOOK_BYTES
        self.problem = self._problem()

    @property
    def kv_bytes(self) -> int:
        """K and V storage that the engine allocates: batch_rows x capacity_tokens x kv_bytes_per_token."""
        return self.batch_rows * self.capacity_tokens * self.kv_bytes_per_token

    @property
    def memory_bytes(self) -> int:
        """Weights, predictor and cache, without the reserve for a step."""
        return self.weights_bytes + self.predictor_bytes + self.kv_bytes

    def row(self) -> dict[str, Any]:
        """All that is said of the cell, by name."""
        named = {name: value for name, value in vars(self).items() if not name.startswith("_") and name != "config"}
        return {**named, "kv_bytes": self.kv_bytes, "memory_bytes": self.memory_bytes}

    def _problem(self) -> str | None:
        on, new_tokens = self._machine.name, self.config.max_new_tokens
        if self._room <= 0:
            return (
                f"the weights ({self.weights_bytes / GIB:.1f} GiB) do not fit into "
                f"{self._machine.memory_bytes / GIB:.0f} GiB of {on}: quantisation: 8bit or 4bit, or "
                "device_map: auto over several GPUs"
            )
        if self.largest_batch < self.batch_rows:
            lower = "nor does one row: lower max_new_tokens or use a budget"
            remedy = f"batch_rows: {self.largest_batch} does" if self.largest_batch else lower
            per_row = self.kv_bytes / self.batch_rows / GIB
            return f"{self.batch_rows} rows of {per_row:.2f} GiB do not fit beside the weights on {on}: {remedy}"
        if self._longest + new_tokens > self._size.max_positions:
            return (
                f"prompts of up to {self._longest} and {new_tokens} new tokens exceed the model's "
                f"{self._size.max_positions} positions: lower max_new_tokens"
            )
        return None

    def _time(self, known: list[PastCell]) -> tuple[float | None, float | None, str]:
        """Tokens a second, seconds for the cell, and what kind of number that is."""
        total, bandwidth = self._replies * self.new_tokens, self._machine.bandwidth
        if bandwidth is not None:
            # tokens are the same everywhere, speed is not: for another GPU only a table that the caller vouches for
            known = [past for past in known if past.source == GIVEN]
        if measured := expected_speed(self.config, known):
            tps, overhead, source = measured
            return tps, total / tps + overhead, source
        if bandwidth is None:
            return None, None, NOTHING
        slots = self._longest + self.new_tokens / 2
        if self._schedule is not None:
            slots = min((self._schedule.kept_tokens + self._schedule.peak_tokens) / 2, slots)
        read = step_bytes(self._size.step_weights_bytes, self.kv_bytes_per_token, self.batch_rows, slots)
        seconds = math.ceil(total / self.batch_rows) * read / bandwidth
        return total / seconds, seconds, BOUND


def cache_bytes(config: CellConfig) -> int:
    """K, V and head that the cell will allocate beside the weights; for the check before anything is loaded."""
    forecast = CellForecast(config, Machine("any", 1 << 62, None), [])
    return forecast.memory_bytes - forecast.weights_bytes


def disk_bytes(config: CellConfig) -> int:
    """What the cell may write: every reply at its limit, twice while it is graded, and the notebook."""
    return 2 * _n_replies(config) * config.max_new_tokens * BYTES_PER_TOKEN + NOTEBOOK_BYTES


def _n_replies(config: CellConfig) -> int:
    return (config.n_problems or benchmark_entry(config.benchmark).n_problems) * config.n_samples


def _head_bytes(config: CellConfig, size: ModelSize) -> int:
    if "predictor" not in method_class(config.method).needs:
        return 0
    source = predictor_source(model_entry(config.model), config.predictor)
    known = None if source is None else PredictorShape.on_disk(source)
    return (known or PredictorShape.published(size.hidden)).parameters * size.element_bytes
