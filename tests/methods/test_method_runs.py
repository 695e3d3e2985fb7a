"""Invariants of docs/methods.md#invariants that short runs show, for every method: runs, positions, edge lengths."""

from __future__ import annotations

import pytest
import torch

from kvrepro.cache.prefill import Prefill
from kvrepro.cache.rotary import Rotary
from kvrepro.cache.slots import CompressedCache
from kvrepro.engine.engine import Engine
from kvrepro.engine.requests import Request, SamplingConfig
from kvrepro.methods.recency import StreamingLLMMethod
from kvrepro.methods.table import METHODS, create_method
from kvrepro.methods.views import NEVER, EvictionView, StepView
from kvrepro.models.tokens import ThinkTags

from ..crafted import config, crafted_view, kept
from ..method_cases import COMPRESSED, build, fair, published
from ..recorded import THINK_END, make_requests, record

BUDGET = 40


def engine_of(model, method, new_tokens: int = 45, **kwargs) -> Engine:
    return Engine(
        model,
        method,
        ThinkTags((THINK_END,)),
        (),
        sampling=SamplingConfig(),
        batch_rows=2,
        max_new_tokens=new_tokens,
        **kwargs,
    )


def sampled(engine: Engine, prompts=(7, 12)) -> dict[str, list[int]]:
    """Tokens of two rows that nothing forces."""
    requests = [Request(str(i), 0, r.prompt_ids) for i, r in enumerate(make_requests(prompts, 2, (None,) * 2))]
    return {c.request.problem_id: c.token_ids for c in engine.run(requests)}


# ---------------------------------------------------------------------------------------- runs (5, 6, 16, 17)


@pytest.fixture(scope="module")
def full_run(random_models):
    engine = engine_of(random_models["llama"], create_method("full"))
    return sampled(engine)


@pytest.mark.parametrize("method", COMPRESSED)
def test_sampling_is_untouched_before_the_first_eviction_and_a_second_run_equals_the_first(
    random_models, full_run, method
):
    engine = engine_of(random_models["llama"], build(method, BUDGET, **fair(method)))
    first = sampled(engine)
    assert engine.stats.evictions > 0
    for row, n_prompt in (("0", 7), ("1", 12)):
        # the eviction happens in the step that fills slot 46; the token drawn in that step is the first to see it
        free = BUDGET + 6 - n_prompt
        assert first[row][:free] == full_run[row][:free]
    # the same object again: nothing may be left of the first run
    assert sampled(engine) == first


@pytest.mark.parametrize("method", COMPRESSED)
def test_below_the_budget_the_cache_is_the_full_cache_bit_by_bit(random_models, method):
    model, requests = random_models["qwen2"], make_requests((5, 9), 12, (4, None))
    plain = record(model, create_method("full"), requests, with_oracle=False)
    found = record(model, build(method, 60, **fair(method)), requests, with_oracle=False)
    assert found.evictions == [[], []]
    for row, n in enumerate((5 + 11, 9 + 11)):
        assert torch.equal(found.cache.kv[:, :, row, :, :n], plain.cache.kv[:, :, row, :, :n])
        assert torch.equal(found.logits[row], plain.logits[row])


RATIO_METHODS = [m for m in COMPRESSED if "ratio" in published(m) and m not in ("rpc", "snapkv_dynts", "rkv_dynts")]


@pytest.mark.parametrize("method", RATIO_METHODS)
def test_a_ratio_of_one_keeps_the_full_cache_beyond_the_budget(random_models, full_run, method):
    engine = engine_of(random_models["llama"], build(method, 20, **{**published(method), "ratio": 1.0}))
    assert sampled(engine) == full_run
    assert engine.stats.kv_tokens_peak == 12 + 44


@pytest.mark.parametrize("granularity", ["shared", "layer", "head"])
@pytest.mark.parametrize("method", ["dynts", "sepllm", "random", "h2o", "gkv", "triattention", "foresight_kv", "tova"])
def test_any_granularity_equals_a_full_cache_that_hides_what_it_evicted(random_models, method, granularity):
    chosen = build(method, 30, **{**fair(method), "granularity": granularity})
    found = record(random_models["llama"], chosen, make_requests((6, 11), 45, (30, None)))
    assert min(map(len, found.evictions)) >= 2
    for row in range(2):
        torch.testing.assert_close(found.logits[row], found.expected[row], atol=2e-5, rtol=2e-5)
    kept_sets = [e.kept for evictions in found.evictions for e in evictions]
    if granularity == "shared":
        assert all(head == one[0][0] for one in kept_sets for layer in one for head in layer)
    if granularity == "layer":
        assert all(head == layer[0] for one in kept_sets for layer in one for head in layer)


# ---------------------------------------------------------------------------------------- positions (8)


def test_reindexed_keys_are_rotated_for_their_slot_and_positions_never_exceed_the_cache(random_models):
    model = random_models["llama"]
    method = create_method("streaming_llm", 24, window=8, evict_every=5, protocol="fair", reindex=True)
    found = record(model, method, make_requests((6, 17), 50, (None, None)))
    rotary = Rotary.of(model)
    for row, n_prompt in enumerate((6, 17)):
        last = found.evictions[row][-1]
        held = [*last.kept[0][0], *range(last.seen, n_prompt + 49)]
        assert held[:4] == [0, 1, 2, 3]
        assert len(held) <= method.schedule.peak_tokens < n_prompt + 49
        # the first layer's keys before any rotation depend on the token alone
        raw = rotary.unrotate(found.oracle[row].keys[0], torch.arange(n_prompt + 49))[:, held]
        stored = found.cache.kv[0, 0, row, :, : len(held)]
        torch.testing.assert_close(stored, rotary.rotate(raw, torch.arange(len(held))), atol=1e-5, rtol=1e-5)
        # so its logits are not those of original positions, which every other method is held to
        assert not torch.allclose(found.logits[row], found.expected[row], atol=1e-2)
        before = last.seen - n_prompt
        first = found.evictions[row][0].seen - n_prompt + 1
        torch.testing.assert_close(found.logits[row][:first], found.expected[row][:first], atol=2e-5, rtol=2e-5)
        assert before > first


def test_reindexed_keys_do_not_drift_in_bfloat16():
    """Every key of the window moves once per step, up to 300 times, and stays as near as two roundings leave it."""
    method = create_method("streaming_llm", 300, window=0, evict_every=1, protocol="fair", reindex=True)
    raw = torch.randn(1, 2, 700, 8, generator=torch.Generator().manual_seed(0))
    cache = CompressedCache(config(layers=1), 1, 301, dtype=torch.bfloat16)
    cache.rotary = rotary = Rotary(1e4 ** (-torch.arange(0, 1, 2 / 8)))
    method.prepare(cache)
    keys = rotary.rotate(raw[:, :, :290], torch.arange(290)).bfloat16()
    cache.admit(keys, keys)
    method.admit(cache, 0, Prefill(torch.zeros(290), keys, keys, torch.zeros(1)), Request("0", 0, ()))
    zero = torch.zeros(1, dtype=torch.int64)
    for position in range(290, 700):
        key = rotary.rotate(raw[:, :, position : position + 1], cache.next_positions()[0]).bfloat16()
        cache.append(0, key, key)
        method.observe(StepView(cache, key, zero))
        if cache.lengths[0] == 301:
            [plan], _ = method.plans(EvictionView(cache, zero, 301, zero, zero + NEVER, zero, zero))
            cache.compact(plan)
            method.after_compact(cache, plan)
    held = cache.positions[0, 0, 0, :300]
    assert held.tolist() == [0, 1, 2, 3, *range(404, 700)]
    exact = rotary.rotate(raw[0][:, held], torch.arange(300))
    error = (cache.kv[0, 0, 0, :, :300].float() - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert error.max() < 0.006


def test_reindexed_positions_are_what_the_model_is_given(random_models):
    method = create_method("streaming_llm", 20, window=8, evict_every=4, protocol="fair", reindex=True)
    asked = []
    original = StreamingLLMMethod.prepare

    def prepare(cache):
        original(method, cache)
        given = cache.next_positions
        cache.next_positions = lambda: asked.append(given()) or asked[-1]

    object.__setattr__(method, "prepare", prepare)
    sampled(engine_of(random_models["llama"], method))
    assert max(int(x.max()) for x in asked) == method.schedule.peak_tokens - 1


def test_empty_slots_get_no_attention_at_all(random_models):
    seen = []
    method = create_method("h2o", BUDGET, window=8, evict_every=6, protocol="fair")
    original = type(method).prepare

    def prepare(cache):
        original(method, cache)
        inner = cache.on_mass

        def look(cache, layer, attention):
            for row, slot in zip(cache.step_rows.tolist(), cache.step_slots.tolist(), strict=True):
                seen.append((float(attention[row, ..., slot + 1 :].abs().sum()), attention.shape[-1] - slot - 1))
            inner(cache, layer, attention)

        cache.on_mass = look

    object.__setattr__(method, "prepare", prepare)
    sampled(engine_of(random_models["llama"], method), prompts=(4, 22))
    assert any(empty for _, empty in seen)
    assert all(mass == 0 for mass, _ in seen)


# ---------------------------------------------------------------------------------------- edge lengths (20)


EDGES = [
    ("one-token prompt", (1, 1), (None, None)),
    ("a thought that closes at once", (3, 9), (0, 0)),
    ("prompt as long as pins allow", (16, 3), (None, 5)),
]


@pytest.mark.parametrize(("prompts", "closes"), [case[1:] for case in EDGES], ids=[case[0] for case in EDGES])
@pytest.mark.parametrize("method", COMPRESSED)
def test_edge_lengths_have_a_defined_result(random_models, method, prompts, closes):
    sizes = fair(method, window=4, evict_every=6)
    # random_attention needs something to draw beside the prompt
    budget = 21 if method == "random_attention" else 20
    if METHODS[method].only_window is not None or method == "streaming_dynts":
        budget = 24
    found = record(random_models["llama"], build(method, budget, **sizes), make_requests(prompts, 34, closes))
    for row in range(2):
        assert found.evictions[row]
        torch.testing.assert_close(found.logits[row], found.expected[row], atol=2e-5, rtol=2e-5)


NO_PINS = [m for m in COMPRESSED if not build(m, BUDGET, **fair(m)).pin_question]


@pytest.mark.parametrize("method", NO_PINS)
def test_a_prompt_as_long_as_the_budget_evicts_in_the_first_steps(random_models, method):
    """P = C, so also P > C - w: published, snapkv and rkv have no score there; here the prompt's own queries count."""
    sizes = {**fair(method), "evict_every": 5}
    found = record(random_models["llama"], build(method, 24, **sizes), make_requests((24, 3), 30, (None, None)))
    assert found.evictions[0][0].seen == 29
    torch.testing.assert_close(found.logits[0], found.expected[0], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("window", [39, 0])
def test_one_candidate_and_no_window(window):
    """n = W + 2 with one place, and no window at all."""
    chosen = create_method("h2o", 40, window=window, evict_every=1, protocol="fair")
    slots = kept(chosen, crafted_view(chosen, 41))
    assert slots.shape[-1] == 40
    if window == 39:
        assert (slots[..., 1:] == torch.arange(2, 41)).all()
        assert set(slots[..., 0].flatten().tolist()) <= {0, 1}


def test_a_ratio_that_keeps_no_candidate_keeps_the_window():
    """k = floor(0.1 * 5) = 0."""
    chosen = create_method("h2o_dynts", 12, window=8, ratio=0.1)
    assert chosen.schedule.kept_tokens == 8
    assert (kept(chosen, crafted_view(chosen, 13)) == torch.arange(5, 13)).all()
