"""The only decode loop. Prompts enter row by row, finished rows leave at once, each row evicts on its own."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..cache.attention import slot_attention
from ..cache.prefill import Prefill, prefill_prompt
from ..cache.rotary import Rotary, check_length
from ..cache.slots import CompressedCache
from ..errors import KvreproError
from ..methods.base import EvictionMethod
from ..methods.views import NEVER, EvictionView, StepView
from ..models.tokens import ThinkTags
from .async_tokens import AsyncTokens
from .batch import ActiveBatch, Row
from .decoders.choose import make_decoder
from .requests import LENGTH_LIMIT, NAN_LOGITS, OK, TRUNCATED, Completion, Request, RowStep, RunStats, SamplingConfig
from .sampling import NOT_FINITE, sample_tokens, where_finite
from .stage_timer import StageTimer

# steps after which the host reads a token: enough for a GPU never to wait for it
GPU_LAG_STEPS = 4
# prompt tokens that run through the model together; bounds what a long prompt needs beside its cache
PREFILL_CHUNK = 4096
# slots of all rows that evict together; bounds what a method needs that compares or attends while it scores
GROUP_SLOTS = 2**16


@dataclass
class Session:
    """One run of the engine.

    `event` is the step at the end of which some row may evict or reach its last token; before such a step every
    token must have been read. `under_way` holds the rows of the steps that have not been read.
    """

    cache: CompressedCache
    live: ActiveBatch
    late: AsyncTokens
    timeline: StageTimer
    event: int = 0
    under_way: deque[list[Row]] = field(default_factory=deque)
    prefilled: dict[tuple[int, ...], Prefill] = field(default_factory=dict)


class Engine:
    """Generates replies with one model, one method and one budget.

    Args:
        model: a Hugging Face decoder with full attention in every layer.
        method: what to evict and when.
        think: the tag that ends the thought.
        eos_ids: tokens that end a reply.
        sampling: how tokens are drawn.
        batch_rows: rows decoded together.
        max_new_tokens: limit per reply.
        seed: of the sampling and the eviction noise.
        keep_positions: record what each eviction kept; costs host time, off in timed runs.
        trace: a list that receives a `RowStep` per step and row; costs host time, off in timed runs.
        decoder: `auto` takes the fastest that serves the model (see `make_decoder`), `module` calls the model.
        on_logits: called with the live rows and their next-token logits `[B, V]` before a token is taken.
        lag: steps after which the host reads a token; None is 4 on a GPU and 0 elsewhere. The replies are the same:
            a row that ended unnoticed is stepped on and what it drew is dropped, and before an eviction every token
            is read. `trace` and `on_logits` see every step at once, so with them the lag is 0.
        prefill_chunk: prompt tokens that run through the model together.

    After `run`, `stats` holds times, sizes and counts.

    Raises:
        KvreproError: `batch_rows`, `max_new_tokens` or `prefill_chunk` below 1, or a negative lag.
    """

    def __init__(
        self, model: PreTrainedModel, method: EvictionMethod, think: ThinkTags, eos_ids: Iterable[int], *,
        sampling: SamplingConfig, batch_rows: int, max_new_tokens: int, seed: int = 0, keep_positions: bool = False,
        trace: list[RowStep] | None = None, decoder: str = "auto",
        on_logits: Callable[[list[Row], Tensor], None] | None = None, lag: int | None = None,
        prefill_chunk: int = PREFILL_CHUNK,
    ):  # fmt: skip
        if batch_rows < 1 or max_new_tokens < 1 or prefill_chunk < 1:
            raise KvreproError(
                f"batch_rows={batch_rows}, max_new_tokens={max_new_tokens}, prefill_chunk={prefill_chunk}: "
                "all must be at least 1"
            )
        self.model, self.method, self.think, self.eos_ids = model, method, think, frozenset(eos_ids)
        self.sampling, self.batch_rows, self.max_new_tokens = sampling, batch_rows, max_new_tokens
        self.seed, self.keep_positions, self.trace = seed, keep_positions, trace
        self.on_logits, self.prefill_chunk = on_logits, prefill_chunk
        if lag is None:
            lag = GPU_LAG_STEPS if model.device.type == "cuda" else 0
        self.lag = AsyncTokens(lag if trace is None and on_logits is None else 0).lag
        self.stats = RunStats()
        self.decoder = make_decoder(model, decoder)

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Generate all requests and yield each completion as it finishes.

        Raises:
            KvreproError: a prompt that the budget cannot serve, or replies beyond the length up to which RoPE's
                frequencies are fixed; raised before anything is generated.

        Warns where replies ended with `nan_logits`: how many, and in which dtype.
        """
        waiting = deque(requests)
        if not waiting:
            return
        longest = max(len(r.prompt_ids) for r in waiting)
        for length in sorted({len(r.prompt_ids) for r in waiting}, reverse=True):
            if not length:
                raise KvreproError("a prompt is empty: every request needs at least one token")
            self.method.check_prompt(length)
        capacity = self.method.capacity_slots(longest, self.max_new_tokens)
        cache = CompressedCache(
            self.model.config, min(self.batch_rows, len(waiting)), capacity, self.method.granularity,
            self.model.dtype, self.model.device,
        )  # fmt: skip
        if self.method.needs_rotary:
            cache.rotary = Rotary.of(self.model)
        self.method.prepare(cache)
        check_length(self.model.config, capacity if cache.reindexed else longest + self.max_new_tokens)
        self.stats = RunStats(
            kv_bytes=cache.kv_bytes, capacity_tokens=capacity, bytes_per_slot=cache.bytes_per_slot,
            batch_rows=cache.max_rows,
        )  # fmt: skip
        device = self.model.device
        session = Session(
            cache, ActiveBatch(cache.max_rows, device), AsyncTokens(self.lag), StageTimer(self.stats, device)
        )
        try:
            with slot_attention(self.model, cache):
                n_broken = 0
                for completion in self._loop(session, waiting):
                    n_broken += completion.status == NAN_LOGITS
                    yield completion
            if n_broken:
                dtype = str(self.model.dtype).removeprefix("torch.")
                warnings.warn(
                    f"{n_broken} replies ended with status {NAN_LOGITS} and count as wrong: the model's logits in "
                    f"{dtype} were not finite. "
                    + ("Run it in bfloat16 or float32" if dtype == "float16" else "Check its weights"),
                    RuntimeWarning, stacklevel=2,
                )  # fmt: skip
        finally:
            session.timeline.settle()
            self.stats.kv_tokens_peak = cache.peak_tokens

    def _loop(self, session: Session, waiting: deque[Request]) -> Iterator[Completion]:
        while waiting or session.live.rows:
            while waiting and session.cache.n_rows < session.cache.max_rows:
                yield from self._admit(session, waiting.popleft())
            if session.live.rows:
                yield from self._decode(session)

    # nothing is yielded inside inference mode: it would leak into the caller's code between completions
    @torch.inference_mode()
    def _admit(self, session: Session, request: Request) -> list[Completion]:
        """Prefill a prompt, put it into a free row and draw its first token."""
        cache, live, prefilled = session.cache, session.live, session.prefilled
        with session.timeline.section("prefill_s"):
            # samples of one problem come together and share their prompt's prefill
            if request.prompt_ids not in prefilled:
                prefilled.clear()
                sizes = self.method.probe_sizes
                prefilled[request.prompt_ids] = prefill_prompt(
                    self.model, request.prompt_ids, *sizes, chunk=self.prefill_chunk
                )
                self.stats.prefill_tokens += len(request.prompt_ids)
            prefill = prefilled[request.prompt_ids]
            cache.scaling = prefill.scaling
            row = Row(request, self.seed, self.keep_positions)
            self.method.admit(cache, cache.admit(prefill.keys, prefill.values), prefill, request)
            row.completion.peak_tokens = row.n_prompt
            if self.on_logits is not None:
                self.on_logits([row], prefill.logits[None])
            keys, steps = self._tensor([row.sampling_key]), self._tensor([0])
            token = int(self._next(prefill.logits[None], [row], [0], keys, steps)[0])
            live.admit(row, token)
            session.event = self._next_event(session)
            return self._append_tokens(session, [row], [token])

    @torch.inference_mode()
    def _decode(self, session: Session) -> list[Completion]:
        """One step of all live rows: model, observation, eviction, sampling."""
        cache, live, timeline = session.cache, session.live, session.timeline
        is_event = live.n_steps + 1 >= session.event
        if is_event and session.late:
            # what is decided now depends on every token before
            with timeline.section("host_s"):
                finished = self._read_all(session)
            if finished:
                return finished
        with timeline.section("forward_s"):
            newest = live.newest
            logits, hidden = self.decoder.step(newest, cache)
        if self.on_logits is not None:
            self.on_logits(live.rows, logits)
        with timeline.section("score_s"):
            self.method.observe(StepView(cache, hidden, newest))
        if is_event:
            with timeline.section("evict_s"):
                self._evict(cache, live.rows, logits)
        with timeline.section("sample_s"):
            drawn = [live.drawn(row) for row in live.rows] if any(row.forced for row in live.rows) else []
            tokens = self._next(logits, live.rows, drawn, live.keys, live.steps)
            live.advance(tokens)
            late = session.late.push(tokens)
        with timeline.section("host_s"):
            if self.trace is not None:
                self.trace += [
                    RowStep(self.stats.steps, c.request.problem_id, c.request.sample_id, seen, slots, c.evictions)
                    for c, seen, slots in zip(
                        (row.completion for row in live.rows), cache.seen, cache.lengths, strict=True
                    )
                ]
            self.stats.steps += 1
            self.stats.live_rows_mean += (len(live) - self.stats.live_rows_mean) / self.stats.steps
            session.under_way.append(list(live.rows))
            finished = [] if late is None else self._append_tokens(session, session.under_way.popleft(), late)
            if is_event:
                # a row that has drawn its last token must not be stepped again
                finished += self._read_all(session)
                session.event = self._next_event(session)
            return finished

    def _next_event(self, session: Session) -> int:
        """The first step at the end of which a row fills its budget or has drawn its last token."""
        live, evicts = session.live, self.method.schedule is not None
        steps_left = [row.limit(self.max_new_tokens) - live.drawn(row) for row in live.rows]
        if evicts:
            steps_left += [
                self.method.peak_slots(row.n_prompt, row.completion.evictions) - length
                for row, length in zip(live.rows, session.cache.lengths, strict=True)
            ]
        return live.n_steps + max(1, min(steps_left, default=1))

    def _read_all(self, session: Session) -> list[Completion]:
        """Read every token that has been drawn."""
        finished = []
        for tokens in session.late.drain():
            finished += self._append_tokens(session, session.under_way.popleft(), tokens)
        return finished

    def _next(self, logits: Tensor, rows: list[Row], drawn: list[int], keys: Tensor, steps: Tensor) -> Tensor:
        """The next token of each row, `[B]`: drawn, or given by a request that forces it (`drawn`: its index).

        `NOT_FINITE` for a row whose logits are not finite, forced or not; the host notices when it reads the token.
        """
        if not any(row.forced for row in rows):
            return sample_tokens(logits, self.sampling, keys, steps)
        given = self._tensor([-1 if r.forced is None else r.forced[n] for r, n in zip(rows, drawn, strict=True)])
        given = where_finite(logits, given, logits.argmax(-1))
        if all(row.forced for row in rows):
            return given
        return torch.where(given < 0, sample_tokens(logits, self.sampling, keys, steps), given)

    def _evict(self, cache: CompressedCache, rows: list[Row], logits: Tensor) -> None:
        """Compact every row that has filled its budget; rows of equal length go together, as many as memory bears."""
        if self.method.schedule is None:
            return
        due = [
            i
            for i, (row, length) in enumerate(zip(rows, cache.lengths, strict=True))
            if length >= self.method.peak_slots(row.n_prompt, row.completion.evictions)
        ]
        if due:
            # a row without finite logits ends with this step; its keys may hold NaN, which no method can rank
            due = [i for i, ok in zip(due, logits[due].amax(-1).isfinite().tolist(), strict=True) if ok]
        for length, group in groupby(sorted(due, key=cache.lengths.__getitem__), key=cache.lengths.__getitem__):
            indices, most = list(group), max(1, GROUP_SLOTS // length)
            for start in range(0, len(indices), most):
                self._evict_together(cache, rows, indices[start : start + most], length, logits)

    def _evict_together(
        self, cache: CompressedCache, rows: list[Row], indices: list[int], length: int, logits: Tensor
    ) -> None:
        """Compact some rows that hold `length` slots each; `logits` `[B, V]` of the step are for a message only."""
        chosen = [rows[i] for i in indices]
        view = EvictionView(
            cache, self._tensor(indices), length, self._tensor([r.n_prompt for r in chosen]),
            self._tensor([r.answer_from for r in chosen]), self._tensor([r.eviction_key for r in chosen]),
            self._tensor([r.completion.evictions for r in chosen]),
        )  # fmt: skip
        plans, overflow = self.method.plans(view)
        for plan in plans:
            cache.compact(plan)
            self.method.after_compact(cache, plan)
            if self.keep_positions:
                kept = cache.positions[0, plan.rows, 0, : plan.slots.shape[-1]]
                for row, positions in zip(plan.rows.tolist(), kept.tolist(), strict=True):
                    rows[row].completion.kept_positions.append(positions)
        self.stats.evictions += len(indices)
        for row, dropped in zip(chosen, self.method.dropped_pins(overflow, view, logits), strict=True):
            self.stats.pin_overflow_tokens += dropped
            row.completion.pin_overflow_tokens += dropped
            row.completion.evictions += 1
            row.completion.peak_tokens = max(row.completion.peak_tokens, length)

    def _append_tokens(self, session: Session, rows: list[Row], tokens: list[int]) -> list[Completion]:
        """Append the tokens of a step; finished rows leave the cache and are returned."""
        finished = []
        for row, token in reversed(list(zip(rows, tokens, strict=True))):
            if row.ended:
                continue
            if token == NOT_FINITE:
                finished.append(self._end(session, row, NAN_LOGITS))
                continue
            reply = row.completion.token_ids
            self.stats.decoded_tokens += bool(reply)
            reply.append(token)
            if row.answer_from == NEVER and (n_tag := self.think.closes(reply)):
                row.completion.has_closed, row.completion.n_thinking_tokens = True, len(reply)
                row.answer_from = row.n_prompt + len(reply) - n_tag
            is_last = len(reply) == row.limit(self.max_new_tokens)
            is_ok = token in self.eos_ids if row.forced is None else is_last and len(reply) == len(row.forced)
            if is_ok or is_last:
                finished.append(self._end(session, row, OK if is_ok else LENGTH_LIMIT))
        return finished

    def _end(self, session: Session, row: Row, status: str) -> Completion:
        """Close a completion and free its row; the last row moves into the gap, in the cache and here."""
        cache, live, completion = session.cache, session.live, row.completion
        # a model that does not think has nothing but an answer
        in_thought = row.answer_from == NEVER and bool(self.think.end)
        if in_thought:
            completion.n_thinking_tokens = len(completion.token_ids)
        completion.status = TRUNCATED if in_thought and status == LENGTH_LIMIT else status
        index = live.rows.index(row)
        # slots that the row took after its end, unnoticed, are not its reply's
        n_drawn = len(completion.token_ids) + (status == NAN_LOGITS)
        held = cache.lengths[index] - (live.drawn(row) - n_drawn)
        completion.peak_tokens = max(completion.peak_tokens, held)
        row.ended = True
        if status == NAN_LOGITS:
            # the row that moves here may be shorter, and 0 times the NaN of an unused slot is NaN
            cache.kv[:, :, index] = 0
        cache.release(index)
        live.release(index)
        return completion

    def _tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, device=self.model.device)
