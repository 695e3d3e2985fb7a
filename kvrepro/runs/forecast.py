"""What a profile costs before it is started: memory exactly as the engine allocates it, time measured or bounded."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from ..errors import KvreproError
from ..models.memory import GIB, RESERVE_BYTES, row_bytes, rows_that_fit, step_bytes
from ..models.shapes import model_size
from .config import CellConfig
from .machines import Machine
from .past_cells import BOUND, GIVEN, NOTHING, PastCell, expected_speed, expected_tokens
from .resolution import ResolvedCell
from .scheduling import Request, gpus_needed, host_mb, runtime_min
from .throughput import ThroughputSettings

EXACT, ASSUMED = "exact", "assumed"
# what is no plain value of a row
_OBJECTS = ("config", "machine", "entry", "size", "request")


class CellForecast:
    """One cell on one machine. Sizes in bytes, times in seconds; nothing is loaded but what sizes are read from.

    Attributes:
        weights_bytes, kv_bytes_per_token: of the model, and what a slot takes over all layers.
        predictor_bytes, kv_bytes, capacity_tokens, batch_rows: see `ResolvedCell`.
        memory_bytes: weights, predictor and cache, without the reserve for a step.
        largest_batch: the most rows that the machine has room for.
        prompt_source: `exact` or `assumed`.
        new_tokens, tps, seconds: of a reply, a second and the cell; None where nothing is known.
        tokens_source, time_source: where a number was `measured` (see `past_cells`), or: `limit` (every reply runs to
            max_new_tokens), `bound` (what a step must read, weights and cache, at the data sheet's bandwidth: no run
            is faster, real ones are slower), `unknown`.
        overhead_s: of the seconds those outside decoding; 0 in a bound.
        disk_bytes: what the cell writes.
        request: what to ask a scheduler for.
        problem: why it does not run as it stands, None if it does.

    Raises:
        KvreproError: a model whose configuration cannot be had, or that the cache refuses.
    """

    def __init__(self, config: CellConfig, machine: Machine, known: list[PastCell]):
        self.cell_id, self.config, self.machine = config.cell_id, config, machine
        self._cell = cell = ResolvedCell.of(config)
        self.entry, self.n_replies = cell.entry, cell.n_replies
        self.size = size = model_size(cell.entry)
        self.weights_bytes, self.predictor_bytes = size.weights_bytes, cell.predictor_bytes
        self.kv_bytes_per_token, self.kv_bytes = size.kv_bytes_per_token, cell.kv_bytes
        self.memory_bytes = self.weights_bytes + self.predictor_bytes + self.kv_bytes
        self.capacity_tokens, self.batch_rows = cell.capacity_tokens, cell.batch_rows
        # where the schedule decides, the prompt's length does not matter
        longest = cell.longest_prompt + config.max_new_tokens
        decided = cell.method.schedule is not None and self.capacity_tokens < longest
        self.prompt_source = ASSUMED if cell.prompts is None and not decided else EXACT
        gpus = gpus_needed(self.entry, size, self.weights_bytes + self.beside_bytes(self.batch_rows), machine)
        # one device, unless the model's row spreads it over those that there are
        self._devices = max(1, gpus if machine.gpus is None else min(gpus, machine.gpus))
        reserve = RESERVE_BYTES["cpu" if machine.is_cpu else "cuda"]
        self._room = self._devices * (machine.memory_bytes - reserve) - self.weights_bytes - self.predictor_bytes
        self.largest_batch = rows_that_fit(self._room, self.kv_bytes_per_token, self.capacity_tokens, size.vocabulary)
        self.new_tokens, self.tokens_source = expected_tokens(config, known)
        self.tps, self.seconds, self.overhead_s, self.time_source = self._time(known)
        self.disk_bytes = cell.disk_bytes(self.new_tokens)
        self.request = self.request_for(gpus)
        self.problem = self._problem()

    def row(self) -> dict[str, Any]:
        """All that is said of the cell, by name."""
        kept = {name: value for name, value in vars(self).items() if not name.startswith("_") and name not in _OBJECTS}
        return {**kept, "request": asdict(self.request)}

    def request_for(self, gpus: int) -> Request:
        """What to ask for where the cell gets so many GPUs, whatever it needs; with 0 a CPU holds all."""
        memory = host_mb(self.size, self.beside_bytes(self.batch_rows), gpus)
        return Request(memory, runtime_min([(self.seconds, self.time_source)]), gpus)

    def beside_bytes(self, rows: int) -> int:
        """What lies beside the weights while so many rows are decoded: predictor, cache, logits."""
        each = row_bytes(self.kv_bytes_per_token, self.capacity_tokens, self.size.vocabulary)
        return self.predictor_bytes + rows * each

    def throughput_seconds(self, settings: ThroughputSettings) -> float | None:
        """What measuring its throughput takes beside prefill, from the same numbers; None where nothing is known.

        A step with fewer rows than the cell's is taken to last as long as one with all of them.
        """
        if self.tps is None:
            return None
        return len(settings.passes()) * self.new_tokens * self.batch_rows / self.tps

    def _problem(self) -> str | None:
        on, new_tokens = self.machine.name, self.config.max_new_tokens
        if self._devices > 1:
            on = f"{self._devices} x {on}"
        if self._room <= 0:
            return (
                f"the weights ({self.weights_bytes / GIB:.1f} GiB) do not fit into "
                f"{self._devices * self.machine.memory_bytes / GIB:.0f} GiB of {on}: quantisation: 8bit or 4bit, or "
                "device_map: auto over several GPUs"
            )
        if self.largest_batch < self.batch_rows:
            lower = "nor does one row: lower max_new_tokens or use a budget"
            remedy = f"batch_rows: {self.largest_batch} does" if self.largest_batch else lower
            per_row = self.kv_bytes / self.batch_rows / GIB
            return f"{self.batch_rows} rows of {per_row:.2f} GiB do not fit beside the weights on {on}: {remedy}"
        if self._cell.longest_prompt + new_tokens > self.size.max_positions:
            return (
                f"prompts of up to {self._cell.longest_prompt} and {new_tokens} new tokens exceed the model's "
                f"{self.size.max_positions} positions: lower max_new_tokens"
            )
        try:
            self._cell.check_prompts()
        except KvreproError as error:
            return str(error)
        return None

    def _time(self, known: list[PastCell]) -> tuple[float | None, float | None, float, str]:
        """Tokens a second, seconds for the cell, those outside decoding, and what kind of number that is."""
        total, bandwidth = self.n_replies * self.new_tokens, self.machine.bandwidth
        if bandwidth is not None:
            # tokens are the same everywhere, speed is not: for another GPU only a table that the caller vouches for
            known = [past for past in known if past.source == GIVEN]
        if measured := expected_speed(self.config, known):
            tps, overhead, source = measured
            return tps, total / tps + overhead, overhead, source
        if bandwidth is None:
            return None, None, 0.0, NOTHING
        slots = self._cell.longest_prompt + self.new_tokens / 2
        if (schedule := self._cell.method.schedule) is not None:
            slots = min((schedule.kept_tokens + schedule.peak_tokens) / 2, slots)
        read = step_bytes(self.size.step_weights_bytes, self.kv_bytes_per_token, self.batch_rows, slots)
        seconds = math.ceil(total / self.batch_rows) * read / bandwidth
        return total / seconds, seconds, 0.0, BOUND
