"""The only decode loop. Prompts enter row by row, finished rows leave at once, each row evicts on its own."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..cache.attention import slot_attention
from ..cache.prefill import prefill_prompt
from ..cache.rotary import Rotary, check_length
from ..cache.slots import CompressedCache
from ..errors import KvreproError
from ..kernels.reference.sampling import NOT_FINITE
from ..methods.base import EvictionMethod
from ..methods.views import NEVER, EvictionView, RowNumbers, StepView
from ..models.tokens import ThinkTags
from .async_tokens import AsyncTokens
from .batch import ActiveBatch, Row, RunState, warn_of_nan
from .decoders.choose import make_decoder
from .observer import Observer
from .requests import LENGTH_LIMIT, NAN_LOGITS, OK, TRUNCATED, Completion, Request, RunStats, SamplingConfig
from .sampling import next_tokens
from .stage_timer import StageTimer
from .step_tail import StepTail

# steps after which the host reads a token: enough for a GPU never to wait for it
GPU_DELAY_STEPS = 4
# prompt tokens that run through the model together; bounds what a long prompt needs beside its cache
PREFILL_CHUNK = 4096


class Engine:
    """Generates replies with one model, one method and one budget; after `run`, `stats` holds times, sizes and counts.

    Args:
        model: a Hugging Face decoder with full attention in every layer.
        method: what to evict and when.
        think: the tag that ends the thought.
        eos_ids: tokens that end a reply.
        batch_rows: rows decoded together, at least 1.
        max_new_tokens: limit per reply, at least 1.
        seed: of the sampling and the eviction noise.
        decoder: `auto` takes the fastest that serves the model (see `make_decoder`), `module` calls the model.
        delay_steps: steps after which the host reads a token; None is 4 on a GPU and 0 elsewhere. The replies are the
            same: a row that ended unnoticed is stepped on and what it drew is dropped, and before an eviction every
            token is read. With an observer of every step it is 0.
        clock: of `stats` on a CPU, see `StageTimer`.

    Raises `KvreproError` for sizes below these, or negative `delay_steps`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        method: EvictionMethod,
        think: ThinkTags,
        eos_ids: Iterable[int],
        *,
        sampling: SamplingConfig,
        batch_rows: int,
        max_new_tokens: int,
        seed: int = 0,
        decoder: str = "auto",
        observer: Observer | None = None,
        delay_steps: int | None = None,
        clock: str = "wall",
    ):
        if batch_rows < 1 or max_new_tokens < 1:
            raise KvreproError(f"batch_rows={batch_rows}, max_new_tokens={max_new_tokens}: both must be at least 1")
        self.model, self.method, self.think, self.eos_ids = model, method, think, frozenset(eos_ids)
        self.sampling, self.batch_rows, self.max_new_tokens, self.seed = sampling, batch_rows, max_new_tokens, seed
        self.observer = observer or Observer()
        if delay_steps is None:
            delay_steps = GPU_DELAY_STEPS if model.device.type == "cuda" else 0
        self.delay_steps, self.clock = AsyncTokens(delay_steps).delay_steps, clock
        self.stats = RunStats()
        self.decoder = make_decoder(model, decoder)

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Generate all requests and yield each completion as it finishes; warns how many ended with `nan_logits`.

        Raises `KvreproError`, before anything is generated, for a prompt that the budget cannot serve, or replies
        beyond the length up to which RoPE's frequencies are fixed.
        """
        waiting = deque(requests)
        if not waiting:
            return
        n_broken = 0
        for completion in self.advance(self.begin(waiting)):
            n_broken += completion.status == NAN_LOGITS
            yield completion
        if n_broken:
            warn_of_nan(n_broken, self.model.dtype)

    def begin(self, requests: Iterable[Request]) -> RunState:
        """Check requests, at least one, as `run` does, and make a state in which they wait for `advance`."""
        waiting = deque(requests)
        longest = self.check_prompts({len(r.prompt_ids) for r in waiting})
        capacity = self.method.capacity_slots(longest, self.max_new_tokens)
        state = self.open(min(self.batch_rows, len(waiting)), capacity, waiting)
        check_length(self.model.config, capacity if state.cache.reindexed else longest + self.max_new_tokens)
        state.waiting = waiting
        return state

    def check_prompts(self, lengths: Collection[int]) -> int:
        """The largest of the prompts' `lengths`; `KvreproError` for an empty prompt, or one beyond the budget."""
        for length in sorted(lengths, reverse=True):
            if not length:
                raise KvreproError("a prompt is empty: every request needs at least one token")
            self.method.check_prompt(length)
        return max(lengths)

    def advance(self, state: RunState, steps: float = math.inf) -> Iterator[Completion]:
        """Go on for so many steps, at most until all replies have ended, and yield those that do."""
        until = self.stats.steps + steps
        try:
            with slot_attention(self.model, state.cache):
                while (state.waiting or state.batch.rows) and self.stats.steps < until:
                    while state.waiting and state.cache.n_rows < state.cache.max_rows:
                        yield from self._admit(state, state.waiting.popleft())
                    if state.batch.rows:
                        yield from self.step(state)
        finally:
            state.timer.settle()
            self.stats.kv_tokens_peak = state.cache.peak_tokens

    def open(self, rows: int, capacity: int, requests: Iterable[Request] = ()) -> RunState:
        """A state without live rows: a cache for `rows` of `capacity` slots, prepared by the method, and new stats."""
        device = self.model.device
        cache = CompressedCache(self.model.config, rows, capacity, self.method.granularity, self.model.dtype, device)
        if self.method.needs_rotary:
            cache.rotary = Rotary.of(self.model)
        self.method.prepare(cache)
        self.stats = RunStats(
            kv_bytes=cache.kv_bytes, capacity_tokens=capacity, bytes_per_slot=cache.bytes_per_slot, batch_rows=rows
        )
        delay_steps = 0 if self.observer.sees_logits else self.delay_steps
        timer, batch = StageTimer(vars(self.stats), device, self.clock), ActiveBatch(rows, device, requests)
        state = RunState(cache, batch, AsyncTokens(delay_steps), timer)
        if self.method.observes_on_device and not self.observer.sees_logits:
            state.tail = StepTail(self.method, self.sampling, cache, batch)
        return state

    # nothing is yielded inside inference mode: it would leak into the caller's code between completions
    @torch.inference_mode()
    def _admit(self, state: RunState, request: Request) -> list[Completion]:
        """Prefill a prompt, put it into a free row and draw its first token."""
        with state.timer.section("prefill_s"):
            row, logits = self.prefill(state, request)
            self.observer.logits([row], logits[None])
            keys, steps = self._tensor([row.sampling_key]), self._tensor([0])
            first = None if row.forced is None else self._tensor([row.forced[0]])
            token = int(next_tokens(logits[None], self.sampling, first, keys, steps)[0])
            state.batch.admit(row, token)
            state.sync_step = self._next_sync(state)
            return self._append_tokens(state, [row], [token])

    def prefill(self, state: RunState, request: Request) -> tuple[Row, Tensor]:
        """Prefill a prompt into a free row of the cache; the row, not yet in the batch, and the next logits `[V]`."""
        cache, prefilled = state.cache, state.prefilled
        # samples of one problem come together and share their prompt's prefill
        if request.prompt_ids not in prefilled:
            prefilled.clear()
            sizes = self.method.probe_sizes
            prefilled[request.prompt_ids] = prefill_prompt(self.model, request.prompt_ids, *sizes, chunk=PREFILL_CHUNK)
            self.stats.prefill_tokens += len(request.prompt_ids)
        prefill = prefilled[request.prompt_ids]
        cache.scaling = prefill.scaling
        row = Row(request, self.seed)
        self.method.admit(cache, cache.admit(prefill.keys, prefill.values), prefill, request)
        row.completion.peak_tokens = row.n_prompt
        return row, prefill.logits

    @torch.inference_mode()
    def step(self, state: RunState) -> list[Completion]:
        """One step of all live rows: model, observation, eviction, sampling. Returns the replies that ended."""
        cache, batch, timer = state.cache, state.batch, state.timer
        is_sync = batch.n_steps + 1 >= state.sync_step
        if is_sync and state.tokens:
            # what is decided now depends on every token before
            with timer.section("host_s"):
                finished = self.read_all(state)
            if finished:
                return finished
        if state.tail is not None and self.decoder.captures and state.part_timer is None:
            with timer.section("forward_s"):
                tokens = self.decoder.step_and_draw(cache, state.tail)
        else:
            with timer.section("forward_s"):
                newest = batch.newest
                logits, hidden = self.decoder.step(newest, cache, state.part_timer)
            self.observer.logits(batch.rows, logits)
            with timer.section("score_s"):
                self.method.observe(StepView(cache, hidden, newest))
            with timer.section("sample_s"):
                tokens = next_tokens(logits, self.sampling, batch.forced(), batch.keys, batch.steps)
                batch.advance(tokens)
        if is_sync:
            with timer.section("evict_s"):
                for length, rows in state.groups_due(self.method):
                    self.evict(state, rows, length)
        batch.n_steps += 1
        with timer.section("sample_s"):
            read = state.tokens.push(batch.rows, tokens)
        with timer.section("host_s"):
            self.stats.steps += 1
            self.stats.live_rows_mean += (len(batch) - self.stats.live_rows_mean) / self.stats.steps
            finished = [] if read is None else self._append_tokens(state, *read)
            if is_sync:
                # a row that has drawn its last token must not be stepped again
                finished += self.read_all(state)
                state.count_evictions(self.method, self.stats)
                state.sync_step = self._next_sync(state)
            return finished

    def _next_sync(self, state: RunState) -> int:
        """The first step at the end of which a row fills its budget or has drawn its last token."""
        batch, evicts = state.batch, self.method.schedule is not None
        steps_left = [row.limit(self.max_new_tokens) - batch.n_drawn(row) for row in batch.rows]
        if evicts:
            steps_left += [
                self.method.peak_slots(row.n_prompt, row.completion.evictions) - length
                for row, length in zip(batch.rows, state.cache.lengths, strict=True)
            ]
        return batch.n_steps + max(1, min(steps_left, default=1))

    def read_all(self, state: RunState) -> list[Completion]:
        """Read every token that has been drawn."""
        return [ended for step in state.tokens.drain() for ended in self._append_tokens(state, *step)]

    @torch.inference_mode()
    def evict(self, state: RunState, indices: list[int], length: int) -> None:
        """Compact some rows that hold `length` slots each; nothing is read: `RunState.count_evictions` follows."""
        cache, rows = state.cache, state.batch.rows
        chosen = [rows[i] for i in indices]
        numbers = RowNumbers(
            indices,
            n_prompt=[r.n_prompt for r in chosen],
            answer_from=[r.answer_from for r in chosen],
            noise_keys=[r.eviction_key for r in chosen],
            evictions=[r.completion.evictions for r in chosen],
        )
        view = EvictionView.of(cache, length, numbers)
        plans, overflow = self.method.plans(view)
        for plan in plans:
            cache.compact(plan)
            self.method.after_compact(cache, plan)
            self.observer.evicted(cache, rows, plan)
        for row in chosen:
            row.completion.peak_tokens = max(row.completion.peak_tokens, length)
        state.evicted.push(chosen, overflow)

    def _append_tokens(self, state: RunState, rows: list[Row], tokens: list[int]) -> list[Completion]:
        """Append the tokens of a step; finished rows leave the cache and are returned."""
        finished = []
        for row, token in reversed(list(zip(rows, tokens, strict=True))):
            if row.ended:
                continue
            if token == NOT_FINITE:
                finished.append(self._end(state, row, NAN_LOGITS))
                continue
            reply = row.completion.token_ids
            self.stats.decoded_tokens += bool(reply)
            row.append(token, self.think)
            is_last = len(reply) == row.limit(self.max_new_tokens)
            is_ok = token in self.eos_ids if row.forced is None else is_last and len(reply) == len(row.forced)
            if is_ok or is_last:
                finished.append(self._end(state, row, OK if is_ok else LENGTH_LIMIT))
        return finished

    def _end(self, state: RunState, row: Row, status: str) -> Completion:
        """Close a completion and free its row; the last row moves into the gap, in the cache and here."""
        cache, batch, completion = state.cache, state.batch, row.completion
        # a model that does not think has nothing but an answer
        in_thought = row.answer_from == NEVER and bool(self.think.end)
        if in_thought:
            completion.n_thinking_tokens = len(completion.token_ids)
        completion.status = TRUNCATED if in_thought and status == LENGTH_LIMIT else status
        index = batch.rows.index(row)
        # slots that the row took after its end, unnoticed, are not its reply's
        n_drawn = len(completion.token_ids) + (status == NAN_LOGITS)
        held = cache.lengths[index] - (batch.n_drawn(row) - n_drawn)
        completion.peak_tokens = max(completion.peak_tokens, held)
        row.ended = True
        if status == NAN_LOGITS:
            # the row that moves here may be shorter, and 0 times the NaN of an unused slot is NaN
            cache.kv[:, :, index] = 0
        cache.release(index)
        batch.release(index)
        return completion

    def _tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, device=self.model.device)
