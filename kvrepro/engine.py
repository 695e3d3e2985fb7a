"""The only decode loop. Prompts enter row by row, finished rows leave at once, each row evicts on its own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from .attention import slot_attention
from .cache import CompressedCache
from .completions import LENGTH_LIMIT, OK, TRUNCATED, Completion, Request, RowStep, RunStats
from .decoder import make_decoder
from .errors import KvreproError
from .methods.base import EvictionMethod
from .methods.views import NEVER, EvictionView, StepView
from .noise import EVICTION, SAMPLING, row_key
from .prefill import Prefill, PrefillProbe
from .rotary import Rotary
from .sampling import sample_tokens
from .sampling_config import SamplingConfig
from .tokens import ThinkTags


class Row:
    """A live row: its completion so far and its keys."""

    def __init__(self, request: Request, seed: int, keep_positions: bool):
        key = (seed, request.problem_id, request.sample_id)
        self.sampling_key, self.eviction_key = row_key(*key, SAMPLING), row_key(*key, EVICTION)
        self.completion = Completion(request, kept_positions=[] if keep_positions else None)
        self.answer_from = NEVER

    @property
    def n_prompt(self) -> int:
        """Prompt tokens."""
        return len(self.completion.request.prompt_ids)


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
        decoder: `auto` fuses the decode step where the model's layout is known, `module` calls the model.
        on_logits: called with the live rows and their next-token logits `[B, V]` before a token is taken.

    After `run`, `stats` holds times, sizes and counts.
    """

    def __init__(
        self, model: PreTrainedModel, method: EvictionMethod, think: ThinkTags, eos_ids: Iterable[int], *,
        sampling: SamplingConfig, batch_rows: int, max_new_tokens: int, seed: int = 0, keep_positions: bool = False,
        trace: list[RowStep] | None = None, decoder: str = "auto",
        on_logits: Callable[[list[Row], Tensor], None] | None = None,
    ):  # fmt: skip
        if batch_rows < 1 or max_new_tokens < 1:
            raise KvreproError(f"batch_rows={batch_rows}, max_new_tokens={max_new_tokens}: both must be at least 1")
        self.model, self.method, self.think, self.eos_ids = model, method, think, frozenset(eos_ids)
        self.sampling, self.batch_rows, self.max_new_tokens = sampling, batch_rows, max_new_tokens
        self.seed, self.keep_positions, self.trace = seed, keep_positions, trace
        self.on_logits = on_logits
        self.stats = RunStats()
        self.decoder = make_decoder(model, decoder)

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Generate all requests and yield each completion as it finishes.

        Raises:
            KvreproError: a prompt that the budget cannot serve; raised before anything is generated.
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
        self.stats = RunStats(
            kv_bytes=cache.kv_bytes, capacity_tokens=capacity, bytes_per_slot=cache.bytes_per_slot,
            batch_rows=cache.max_rows,
        )  # fmt: skip
        try:
            with slot_attention(self.model, cache):
                yield from self._loop(cache, waiting)
        finally:
            self.stats.kv_tokens_peak = cache.peak_tokens

    def _loop(self, cache: CompressedCache, waiting: deque[Request]) -> Iterator[Completion]:
        rows: list[Row] = []
        prefilled: dict[tuple[int, ...], Prefill] = {}
        while waiting or rows:
            while waiting and cache.n_rows < cache.max_rows:
                yield from self._admit(cache, rows, waiting.popleft(), prefilled)
            if rows:
                yield from self._decode(cache, rows)

    # nothing is yielded inside inference mode: it would leak into the caller's code between completions
    @torch.inference_mode()
    def _admit(self, cache: CompressedCache, rows: list[Row], request: Request, prefilled: dict) -> list[Completion]:
        """Prefill a prompt, put it into a free row and draw its first token."""
        with self._timed("prefill_s"):
            # samples of one problem come together and share their prompt's prefill
            if request.prompt_ids not in prefilled:
                prefilled.clear()
                prefilled[request.prompt_ids] = self._prefill(request.prompt_ids)
            prefill = prefilled[request.prompt_ids]
            row = Row(request, self.seed, self.keep_positions)
            self.method.admit(cache, cache.admit(prefill.keys, prefill.values), prefill, request)
            row.completion.peak_tokens = row.n_prompt
            rows.append(row)
            if self.on_logits is not None:
                self.on_logits([row], prefill.logits[None])
            token = int(self._next(prefill.logits[None], [row])[0])
        return self._take(cache, rows, [len(rows) - 1], [token])

    @torch.inference_mode()
    def _decode(self, cache: CompressedCache, rows: list[Row]) -> list[Completion]:
        """One step of all live rows: model, observation, eviction, sampling."""
        with self._timed("forward_s"):
            newest = self._tensor([row.completion.token_ids[-1] for row in rows])
            logits, hidden = self.decoder.step(newest, cache)
        if self.on_logits is not None:
            self.on_logits(rows, logits)
        with self._timed("score_s"):
            self.method.observe(StepView(cache, hidden, newest))
        with self._timed("evict_s"):
            self._evict(cache, rows)
        with self._timed("sample_s"):
            tokens = self._next(logits, rows).tolist()
        with self._timed("host_s"):
            if self.trace is not None:
                self.trace += [
                    RowStep(self.stats.steps, c.request.problem_id, c.request.sample_id, seen, slots, c.evictions)
                    for c, seen, slots in zip((row.completion for row in rows), cache.seen, cache.lengths, strict=True)
                ]
            self.stats.steps += 1
            self.stats.decoded_tokens += len(rows)
            self.stats.live_rows_mean += (len(rows) - self.stats.live_rows_mean) / self.stats.steps
            return self._take(cache, rows, list(range(len(rows))), tokens)

    def _prefill(self, prompt_ids: tuple[int, ...]) -> Prefill:
        """Run one prompt alone."""
        cache, probe = DynamicCache(), PrefillProbe(*self.method.probe_sizes)
        ids = torch.tensor([prompt_ids], device=self.model.device)
        seen = {} if probe.is_idle else {"probe": probe}
        out = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1, **seen)
        self.stats.prefill_tokens += len(prompt_ids)
        device = self.model.device
        keys = torch.stack([layer.keys[0].to(device) for layer in cache.layers])
        values = torch.stack([layer.values[0].to(device) for layer in cache.layers])
        return probe.finish(ids[0], keys, values, out.logits[0, -1].to(device))

    def _next(self, logits: Tensor, rows: list[Row]) -> Tensor:
        """The next token of each row: drawn, or given by a request that forces it."""
        forced = [row.completion.request.forced_ids for row in rows]
        if not any(forced):
            return self._sample(logits, rows)
        drawn = self._sample(logits, rows) if None in forced else logits.new_zeros(len(rows), dtype=torch.int64)
        for i, (row, given) in enumerate(zip(rows, forced, strict=True)):
            if given is not None:
                drawn[i] = given[len(row.completion.token_ids)]
        return drawn

    def _sample(self, logits: Tensor, rows: list[Row]) -> Tensor:
        keys = torch.tensor([row.sampling_key for row in rows], device=logits.device)
        steps = torch.tensor([len(row.completion.token_ids) for row in rows], device=logits.device)
        return sample_tokens(logits, self.sampling, keys, steps)

    def _evict(self, cache: CompressedCache, rows: list[Row]) -> None:
        """Compact every row that has filled its budget; rows of equal length go together."""
        for row, length in zip(rows, cache.lengths, strict=True):
            row.completion.peak_tokens = max(row.completion.peak_tokens, length)
        if self.method.schedule is None:
            return
        due = [
            i
            for i, (row, length) in enumerate(zip(rows, cache.lengths, strict=True))
            if length >= self.method.peak_slots(row.n_prompt, row.completion.evictions)
        ]
        for length, group in groupby(sorted(due, key=cache.lengths.__getitem__), key=cache.lengths.__getitem__):
            indices = list(group)
            chosen = [rows[i] for i in indices]
            view = EvictionView(
                cache, self._tensor(indices), length, self._tensor([r.n_prompt for r in chosen]),
                self._tensor([r.answer_from for r in chosen]), self._tensor([r.eviction_key for r in chosen]),
                self._tensor([r.completion.evictions for r in chosen]),
            )  # fmt: skip
            plans, overflow = self.method.plans(view)
            for plan in plans:
                cache.compact(plan)
                self.method.moved(cache, plan)
                if self.keep_positions:
                    kept = cache.positions[0, plan.rows, 0, : plan.slots.shape[-1]]
                    for row, positions in zip(plan.rows.tolist(), kept.tolist(), strict=True):
                        rows[row].completion.kept_positions.append(positions)
            self.stats.evictions += len(indices)
            self.stats.pin_overflow_tokens += overflow
            for row in chosen:
                row.completion.evictions += 1

    def _take(self, cache: CompressedCache, rows: list[Row], indices: list[int], tokens: list[int]) -> list[Completion]:
        """Append the drawn tokens; finished rows leave the cache and are returned."""
        finished = []
        for index, token in reversed(list(zip(indices, tokens, strict=True))):
            row = rows[index]
            reply = row.completion.token_ids
            reply.append(token)
            if row.answer_from == NEVER and (n_tag := self.think.closes(reply)):
                row.completion.n_thinking_tokens = len(reply)
                row.answer_from = row.n_prompt + len(reply) - n_tag
            forced = row.completion.request.forced_ids
            ended = token in self.eos_ids if forced is None else len(reply) == len(forced)
            if not ended and len(reply) < self.max_new_tokens:
                continue
            # a model that does not think has nothing but an answer
            in_thought = row.answer_from == NEVER and bool(self.think.end)
            if in_thought:
                row.completion.n_thinking_tokens = len(reply)
            row.completion.status = OK if ended else TRUNCATED if in_thought else LENGTH_LIMIT
            # the last row moves into the gap, in the cache and here
            rows[index] = rows[cache.release(index)]
            rows.pop()
            finished.append(row.completion)
        return finished

    def _tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, device=self.model.device)

    def _timed(self, name: str) -> Stopwatch:
        return Stopwatch(self.stats, name, self.model.device)


class Stopwatch:
    """Adds the time of a block to one field of the stats, after the device has finished."""

    def __init__(self, stats: RunStats, name: str, device: torch.device):
        self.stats, self.name, self.device = stats, name, device

    def __enter__(self) -> None:
        self.started = self._now()

    def __exit__(self, *exc: object) -> None:
        setattr(self.stats, self.name, getattr(self.stats, self.name) + self._now() - self.started)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
