"""What a run holds between its steps: rows, their replies on the host, what a step needs of them on the device."""

from __future__ import annotations

import hashlib
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..cache.prefill import Prefill
from ..cache.slots import CompressedCache
from ..kernels.reference.sampling import NOT_FINITE
from ..methods.base import EvictionMethod
from ..methods.views import NEVER
from ..models.tokens import ThinkTags
from .async_tokens import AsyncTokens
from .requests import NAN_LOGITS, Completion, Request, RunStats
from .stage_timer import StageTimer

if TYPE_CHECKING:
    from .step_tail import StepTail

# streams never share a key: what an eviction draws must not move what sampling draws
SAMPLING, EVICTION = 1, 2
# slots of all rows that evict together; bounds what a method needs that compares or attends while it scores
GROUP_SLOTS = 2**16


def row_key(seed: int, problem_id: str, sample_id: int, stream: int) -> int:
    """Signed 64-bit key of one sample's noise stream.

    Noise is counter-based: a number depends on what it is for (seed, problem, sample, step), never on what was drawn
    before, so rows of a batch, methods and resumed runs share it.
    """
    text = f"{seed}/{problem_id}/{sample_id}/{stream}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little", signed=True)


class Row:
    """A live row: its completion so far and its keys.

    Attributes:
        entered: steps that the run had done when the row came.
        answer_from: position of the think-end tag, `NEVER` while the thought is open.
        ended: the completion is finished; what the row drew since is dropped.
    """

    def __init__(self, request: Request, seed: int):
        key = (seed, request.problem_id, request.sample_id)
        self.sampling_key, self.eviction_key = row_key(*key, SAMPLING), row_key(*key, EVICTION)
        self.completion = Completion(request)
        self.entered = 0
        self.answer_from = NEVER
        self.ended = False

    @property
    def n_prompt(self) -> int:
        """Prompt tokens."""
        return len(self.completion.request.prompt_ids)

    @property
    def forced(self) -> tuple[int, ...] | None:
        """The reply, if the request gives it."""
        return self.completion.request.forced_ids

    def limit(self, max_new_tokens: int) -> int:
        """Tokens after which the reply ends, whatever they are."""
        return max_new_tokens if self.forced is None else min(len(self.forced), max_new_tokens)

    def append(self, token: int, think: ThinkTags) -> None:
        """Take the reply's next token, and see whether it completes the think-end tag."""
        reply = self.completion.token_ids
        reply.append(token)
        if self.answer_from == NEVER and (n_tag := think.closes(reply)):
            self.completion.has_closed, self.completion.n_thinking_tokens = True, len(reply)
            self.answer_from = self.n_prompt + len(reply) - n_tag


class ActiveBatch:
    """Rows in the order of the cache, and per row on the cache's device: newest token, sampling key, tokens drawn.

    `state` `[3, max_rows]` int64 holds these and never moves.
    Replies that are given lie there too: a copy from the host in every step would have it wait for a GPU.
    """

    def __init__(self, max_rows: int, device: torch.device, requests: Iterable[Request] = ()):
        self.rows: list[Row] = []
        self.n_steps = 0
        self.state = torch.zeros(3, max_rows, dtype=torch.int64, device=device)
        # one shape for all requests, since work that was recorded holds it
        longest = max((len(r.forced_ids or ()) for r in requests), default=0)
        self._given = torch.full((max_rows, longest), NOT_FINITE, device=device)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def newest(self) -> Tensor:
        """`[B]` int64: the token that each row takes next."""
        return self.state[0, : len(self.rows)]

    @property
    def keys(self) -> Tensor:
        """`[B]` int64: the rows' sampling keys."""
        return self.state[1, : len(self.rows)]

    @property
    def steps(self) -> Tensor:
        """`[B]` int64: index in the reply of the token that each row draws next."""
        return self.state[2, : len(self.rows)]

    @property
    def form(self) -> int | None:
        """What `forced` depends on but its values; None where all rows draw. Work that was recorded serves one form."""
        return self._given.shape[1] if any(row.forced for row in self.rows) else None

    def forced(self, n_rows: int | None = None) -> Tensor | None:
        """`[B]` int64: the token that each row is given next, `NOT_FINITE` for one that draws; None if all draw.

        `n_rows`: of so many rows, live or not; None is those that live.
        """
        if self.form is None:
            return None
        n_rows = len(self.rows) if n_rows is None else n_rows
        # a row that draws may be further than any reply that is given
        place = self.state[2, :n_rows].clamp(max=self._given.shape[1] - 1)
        return self._given[:n_rows].gather(1, place[:, None])[:, 0]

    def n_drawn(self, row: Row) -> int:
        """Tokens that a live row has drawn; the last ones may not have reached the host, and so not its completion."""
        return self.n_steps - row.entered + 1

    def admit(self, row: Row, token: int) -> None:
        """Append a row that has drawn its first token, or none (below 0)."""
        row.entered = self.n_steps
        index, given = len(self.rows), row.forced or ()
        self.state[:, index] = torch.tensor([max(0, token), row.sampling_key, 1])
        if (more := len(given) - self._given.shape[1]) > 0:
            self._given = pad(self._given, (0, more), value=NOT_FINITE)
        self._given[index] = NOT_FINITE
        self._given[index, : len(given)] = torch.tensor(given, dtype=torch.int64)
        self.rows.append(row)

    def advance(self, tokens: Tensor) -> None:
        """Every row has drawn a token, `tokens` `[B]` int64; a row that could draw none (below 0) is fed token 0.

        Device work only, for as many rows as there are tokens; the host counts `n_steps` itself.
        """
        # such a row is stepped on until the host has read what it drew, and no embedding has an index below 0
        torch.clamp(tokens, min=0, out=self.state[0, : len(tokens)])
        self.state[2, : len(tokens)].add_(1)

    def release(self, index: int) -> None:
        """Drop a row; the last one takes its place."""
        last = len(self.rows) - 1
        self.state[:, index] = self.state[:, last].clone()
        self._given[index] = self._given[last].clone()
        self.rows[index] = self.rows[last]
        self.rows.pop()


@dataclass
class RunState:
    """One run of the engine.

    Attributes:
        waiting: requests that have no row yet.
        sync_step: the step at the end of which some row may evict or reach its last token; before such a step every
            token must have been read.
        evicted: rows that evicted in this step, and what `EvictionMethod.plans` counted of each, on its way to the
            host.
        part_timer: times the parts of the model's own step, which costs time itself; None in runs.
        tail: what a decoder may hold in one graph with the model; None where the host takes part in every step.
    """

    cache: CompressedCache
    batch: ActiveBatch
    tokens: AsyncTokens
    timer: StageTimer
    waiting: deque[Request] = field(default_factory=deque)
    part_timer: StageTimer | None = None
    tail: StepTail | None = None
    sync_step: int = 0
    evicted: AsyncTokens = field(default_factory=lambda: AsyncTokens(NEVER))
    prefilled: dict[tuple[int, ...], Prefill] = field(default_factory=dict)

    def groups_due(self, method: EvictionMethod) -> Iterator[tuple[int, list[int]]]:
        """Rows that have filled their budget, in groups of equal length, as many as memory bears: `(length, rows)`.

        A row whose logits are not finite is among them, though no method can rank its keys: to leave it out, the device
        would have to be asked first. It ends with this step, and rows do not look at each other.
        """
        if method.schedule is None:
            return
        lengths = self.cache.lengths
        due = [
            i
            for i, (row, length) in enumerate(zip(self.batch.rows, lengths, strict=True))
            if length >= method.peak_slots(row.n_prompt, row.completion.evictions)
        ]
        for length, group in groupby(sorted(due, key=lengths.__getitem__), key=lengths.__getitem__):
            indices, most = list(group), max(1, GROUP_SLOTS // length)
            for start in range(0, len(indices), most):
                yield length, indices[start : start + most]

    def count_evictions(self, method: EvictionMethod, stats: RunStats) -> None:
        """Count the evictions of this step, once its tokens have been read: what is read here came before them.

        A row that ended with `NAN_LOGITS` counts none. Raises `KvreproError` where the score of another holds NaN.
        """
        for rows, counts in self.evicted.drain():
            for row, counted in zip(rows, counts, strict=True):
                completion = row.completion
                if completion.status == NAN_LOGITS:
                    del completion.kept_positions[completion.evictions :]
                    continue
                dropped = method.dropped_pins(counted, method.peak_slots(row.n_prompt, completion.evictions))
                stats.evictions += 1
                stats.pin_overflow_tokens += dropped
                completion.pin_overflow_tokens += dropped
                completion.evictions += 1


def warn_of_nan(n_broken: int, dtype: torch.dtype) -> None:
    """Say how many replies ended because the model's numbers did."""
    remedy = "Run it in bfloat16 or float32" if dtype == torch.float16 else "Check its weights"
    warnings.warn(
        f"{n_broken} replies ended with status {NAN_LOGITS} and count as wrong: the model's logits in "
        f"{str(dtype).removeprefix('torch.')} were not finite. {remedy}",
        RuntimeWarning,
        stacklevel=3,
    )
