"""Runs that take turns: every reply, eviction and counter is that of a run of its own."""

from __future__ import annotations

import random
from dataclasses import asdict, replace

import pytest
import torch

from kvrepro.engine.engine import Engine
from kvrepro.engine.requests import Request, SamplingConfig
from kvrepro.methods.table import create_method
from kvrepro.models.tokens import ThinkTags

REQUESTS = [
    Request(str(i), 0, tuple(random.Random(i).choices(range(20, 200), k=9 + 3 * i)), forced)
    for i, forced in enumerate((None, tuple(range(30, 61)), None, (40, 41), tuple(range(50, 90))))
]
METHODS = {"full": {}, "window": dict(budget=32, window=8, evict_every=6, protocol="fair")}
COUNTS = ("steps", "decoded_tokens", "prefill_tokens", "evictions", "kv_tokens_peak", "live_rows_mean", "kv_bytes")


def engine(model, method, delay_steps=None) -> Engine:
    sizes = {"batch_rows": 2, "max_new_tokens": 35, "delay_steps": delay_steps}
    return Engine(
        model, create_method(method, **METHODS[method]), ThinkTags(()), (), sampling=SamplingConfig(), **sizes
    )


def shown(completions) -> dict:
    return {c.request.problem_id: (c.token_ids, c.status, c.evictions, c.peak_tokens) for c in completions}


def counts(engine) -> dict:
    return {name: asdict(engine.stats)[name] for name in COUNTS}


@pytest.mark.parametrize("steps", [1, 3, 50])
@pytest.mark.parametrize("delay_steps", [0, 2])
def test_runs_in_turn_equal_runs_one_after_the_other(random_model, steps, delay_steps):
    alone = {name: engine(random_model, name, delay_steps) for name in METHODS}
    expected = {name: shown(e.run(REQUESTS)) for name, e in alone.items()}
    assert any(row[2] for row in expected["window"].values()), "nothing is evicted"
    turns = {name: engine(random_model, name, delay_steps) for name in METHODS}
    states, found = {name: e.begin(REQUESTS) for name, e in turns.items()}, {name: [] for name in METHODS}
    while any(state.waiting or state.batch.rows for state in states.values()):
        for name, e in turns.items():
            before = e.stats.steps
            found[name] += e.advance(states[name], steps)
            assert e.stats.steps - before <= steps
    assert {name: shown(completions) for name, completions in found.items()} == expected
    assert {name: counts(e) for name, e in turns.items()} == {name: counts(e) for name, e in alone.items()}
    # nothing is left to do
    assert list(turns["full"].advance(states["full"])) == []


def test_forced_rows_copy_no_more_from_the_host_than_others(random_model, monkeypatch):
    """On a GPU a step that does so waits for all that was asked of it before."""
    made, copies = torch.tensor, {}
    long = [request for request in REQUESTS if len(request.forced_ids or ()) > 21]
    for name, requests in {"forced": long, "drawn": [replace(request, forced_ids=None) for request in long]}.items():
        e = engine(random_model, "full")
        state, mine = e.begin(requests), copies.setdefault(name, [])
        list(e.advance(state, 1))
        with monkeypatch.context() as patch:
            patch.setattr(torch, "tensor", lambda *a, mine=mine, **k: mine.append(a) or made(*a, **k))
            list(e.advance(state, 20))
        assert e.stats.steps == 21
    assert copies["forced"] == copies["drawn"]
