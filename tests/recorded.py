"""One run of a method through the real engine, with every eviction written down, and the same tokens by the oracle."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kvrepro.cache.slots import CompressedCache
from kvrepro.engine.engine import Engine
from kvrepro.engine.observer import Observer
from kvrepro.engine.requests import Request, SamplingConfig
from kvrepro.methods.base import EvictionMethod
from kvrepro.methods.views import NEVER
from kvrepro.models.tokens import ThinkTags

from .oracle import Seen, oracle_logits

THINK_END = 3
TAG = "position_tag"
PROMPTS = (5, 14, 22)
NEW_TOKENS = 60
# where each reply closes its thought: in the middle, with its first token, never
CLOSES = (40, 0, None)


@dataclass
class Eviction:
    """One row at one eviction; `held` and `kept` are positions `[L][H][...]`, in the order of their slots."""

    held: list[list[list[int]]]
    kept: list[list[list[int]]]
    seen: int
    slots: Tensor
    tags: Tensor | None = None


@dataclass
class Recording:
    """Everything that happened; lists are per row."""

    method: EvictionMethod
    requests: list[Request]
    cache: CompressedCache
    evictions: list[list[Eviction]]
    logits: list[Tensor]
    overflow: int
    hidden: list[Tensor] = field(default_factory=list)
    oracle: list[Seen] = field(default_factory=list)
    expected: list[Tensor] = field(default_factory=list)

    def answer_from(self, row: int) -> int:
        """Position of the think-end tag."""
        reply = self.requests[row].forced_ids
        return len(self.requests[row].prompt_ids) + reply.index(THINK_END) if THINK_END in reply else NEVER

    def sequence(self, row: int) -> list[int]:
        """Prompt and the part of the reply that was fed."""
        return [*self.requests[row].prompt_ids, *self.requests[row].forced_ids[:-1]]


def make_requests(prompts=PROMPTS, new_tokens=NEW_TOKENS, closes=CLOSES, seed: int = 0) -> list[Request]:
    """Rows of random tokens; all have the same reply length, so that row i of the cache stays request i."""
    rng = random.Random(seed)
    found = []
    for i, (n, close) in enumerate(zip(prompts, closes, strict=True)):
        reply = [rng.randrange(20, 200) for _ in range(new_tokens)]
        if close is not None:
            reply[close] = THINK_END
        found.append(Request(str(i), 0, tuple(rng.randrange(20, 200) for _ in range(n)), tuple(reply)))
    return found


def record(model, method: EvictionMethod, requests: list[Request], *, with_oracle: bool = True) -> Recording:
    """Run the requests together and watch."""
    evictions: list[list[Eviction]] = [[] for _ in requests]
    logits: list[list[Tensor]] = [[] for _ in requests]
    caches: list[CompressedCache] = []

    def watch(name, around):
        # methods are frozen: the watcher goes into this one object
        original = getattr(method, name)
        object.__setattr__(method, name, lambda *args: around(original, *args))

    def prepare(original, cache):
        original(cache)
        caches.append(cache)
        cache.add_slot_state(TAG, cache.shape.layers, cache.shape.kv_heads)

    def admit(original, cache, row, prefill, request):
        original(cache, row, prefill, request)
        n_prompt = len(prefill.token_ids)
        cache.slot_state[TAG][:, row, :, :n_prompt] = torch.arange(n_prompt).float()

    def observe(original, step):
        original(step)
        for row, (slot, seen) in enumerate(zip(step.cache.lengths, step.cache.seen, strict=True)):
            step.cache.slot_state[TAG][:, row, :, slot - 1] = seen - 1

    def plans(original, view):
        found, overflow = original(view)
        shape = view.cache.shape
        for plan in found:
            slots = plan.slots.expand(shape.layers, -1, shape.kv_heads, -1)
            positions = view.cache.positions[:, plan.rows, :, : view.length]
            positions = positions.expand(shape.layers, -1, shape.kv_heads, -1)
            kept = positions.gather(-1, slots)
            for i, row in enumerate(plan.rows.tolist()):
                seen = view.cache.seen[row]
                evictions[row].append(
                    Eviction(positions[:, i].tolist(), kept[:, i].tolist(), seen, plan.slots[:, i].clone())
                )
        return found, overflow

    def moved(original, cache, plan):
        original(cache, plan)
        for row in plan.rows.tolist():
            evictions[row][-1].tags = cache.slot_state[TAG][:, row, :, : plan.slots.shape[-1]].clone()

    for name, around in (
        ("prepare", prepare),
        ("admit", admit),
        ("observe", observe),
        ("plans", plans),
        ("after_compact", moved),
    ):
        watch(name, around)

    class Logits(Observer):
        def logits(self, rows, found):
            # a row that is being admitted comes alone
            for i, row in enumerate(rows):
                logits[int(row.completion.request.problem_id)].append(found[i].clone())

    engine = Engine(
        model,
        method,
        ThinkTags((THINK_END,)),
        (),
        sampling=SamplingConfig(),
        batch_rows=len(requests),
        max_new_tokens=len(requests[0].forced_ids),
        observer=Logits(),
    )
    list(engine.run(requests))
    recording = Recording(
        method, requests, caches[0], evictions, [torch.stack(x) for x in logits], engine.stats.pin_overflow_tokens
    )
    if with_oracle:
        for row in range(len(requests)):
            _run_oracle(model, recording, row)
    return recording


def _run_oracle(model, recording: Recording, row: int) -> None:
    """The same tokens over a full cache that hides what was evicted, from the step after the eviction on."""
    sequence, shape = recording.sequence(row), recording.cache.shape
    n = len(sequence)
    hidden = torch.zeros(shape.layers, shape.kv_heads, n, n, dtype=torch.bool)
    for eviction in recording.evictions[row]:
        for layer in range(shape.layers):
            for head in range(shape.kv_heads):
                gone = sorted(set(range(eviction.seen)) - set(eviction.kept[layer][head]))
                hidden[layer, head, eviction.seen :, gone] = True
    seen = Seen()
    n_prompt = len(recording.requests[row].prompt_ids)
    recording.hidden.append(hidden)
    recording.expected.append(oracle_logits(model, sequence, hidden, seen)[n_prompt - 1 :])
    recording.oracle.append(seen)
