"""Every family of the table: cache equality (docs/methods.md#invariants, 6 to 8), engine, three methods; or a refusal.

Weights are random and small; what is tested is that the family's own attention code and the slot cache agree.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from kvrepro.cache.shape import CacheShape
from kvrepro.cache.slots import CompressedCache
from kvrepro.engine.engine import Engine
from kvrepro.engine.requests import Request, SamplingConfig
from kvrepro.errors import KvreproError
from kvrepro.methods.table import create_method
from kvrepro.models.tokens import ThinkTags
from tests.cache.test_cache import prefill, random_plan, step

from ..families import FAMILIES, SIZES
from ..oracle import oracle_logits

WORKING = [f for f in FAMILIES if f.refusal is None]
REFUSED = [f for f in FAMILIES if f.refusal is not None]
PROMPTS = [[5, 6, 7, 8, 9], [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20], [21, 22, 23]]


@pytest.fixture(scope="module", params=WORKING, ids=lambda f: f.label)
def model(request):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(request.param.config()).eval()


@pytest.mark.parametrize("granularity", ["shared", "head"])
def test_logits_equal_a_full_run_that_hides_the_evicted_positions(model, granularity):
    rng, generator = random.Random(1), torch.Generator().manual_seed(1)
    shape = CacheShape.of(model.config)
    sequence, n_prompt, n_steps, capacity = [rng.randrange(3, 230) for _ in range(30)], 7, 20, 12
    cache = CompressedCache(model.config, 1, capacity, granularity)
    prefill(model, cache, sequence[:n_prompt])
    hidden = torch.zeros(shape.layers, shape.kv_heads, len(sequence), len(sequence), dtype=torch.bool)
    logits = []
    for now in range(n_prompt, n_prompt + n_steps):
        if cache.lengths[0] == capacity:
            cache.compact(random_plan(cache, [0], 8, generator))
            kept = cache.positions[:, 0, :, :8].expand(shape.layers, shape.kv_heads, 8)
            for layer in range(shape.layers):
                for head in range(shape.kv_heads):
                    gone = sorted(set(range(now)) - set(kept[layer, head].tolist()))
                    hidden[layer, head, now:, gone] = True
        logits.append(step(model, cache, [sequence[now]])[0])
    assert hidden.any()
    expected = oracle_logits(model, sequence, hidden)[n_prompt : n_prompt + n_steps]
    torch.testing.assert_close(torch.stack(logits), expected, atol=1e-5, rtol=1e-5)
    # the positions hidden from the oracle do change its logits, so the comparison above can fail
    assert not torch.allclose(expected, oracle_logits(model, sequence, torch.zeros_like(hidden))[n_prompt:][:n_steps])


def test_keys_keep_the_rotation_of_their_position(model):
    rng, generator = random.Random(2), torch.Generator().manual_seed(2)
    sequence = [rng.randrange(3, 230) for _ in range(26)]
    cache = CompressedCache(model.config, 1, 12)
    prefill(model, cache, sequence[:8])
    for token in sequence[8:]:
        if cache.lengths[0] == 12:
            cache.compact(random_plan(cache, [0], 7, generator))
        step(model, cache, [token])
    full = DynamicCache()
    with torch.inference_mode():
        model(input_ids=torch.tensor([sequence]), past_key_values=full, use_cache=True)
    positions = cache.positions[0, 0, 0, : cache.lengths[0]]
    torch.testing.assert_close(cache.kv[0, 0, 0, :, : cache.lengths[0]], full.layers[0].keys[0][:, positions])


def run(model, method: str, **options):
    """Greedy replies of 24 tokens to three prompts of different length, two rows at a time."""
    engine = Engine(
        model,
        create_method(method, **options),
        ThinkTags((4,)),
        (),
        sampling=SamplingConfig(0),
        batch_rows=2,
        max_new_tokens=24,
    )
    done = {
        c.request.problem_id: c.token_ids
        for c in engine.run(Request(str(i), 0, tuple(p)) for i, p in enumerate(PROMPTS))
    }
    return [done[str(i)] for i in range(len(PROMPTS))], engine.stats


def test_the_engine_equals_transformers_where_nothing_is_evicted(model):
    full, _ = run(model, "full")
    roomy, stats = run(model, "window", budget=64)
    assert roomy == full
    assert stats.evictions == 0
    for prompt, tokens in zip(PROMPTS, full, strict=True):
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24, eos_token_id=None
            )
        assert tokens == out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("method", ["window", "random"])
def test_a_method_holds_its_budget_and_begins_like_the_full_cache(model, method):
    full, _ = run(model, "full")
    ours, stats = run(model, method, budget=16, window=4, ratio=0.5, **({"pin_overflow": "keep_first"}))
    assert stats.kv_tokens_peak == 17
    assert stats.evictions
    for prompt, tokens, reference in zip(PROMPTS, ours, full, strict=True):
        assert len(tokens) == 24
        assert tokens[: 17 - len(prompt)] == reference[: 17 - len(prompt)]


@pytest.mark.parametrize("family", REFUSED, ids=lambda f: f"{f.label}-{f.refusal.split()[0]}")
def test_what_the_cache_cannot_hold_is_refused_by_name(family):
    with pytest.raises(KvreproError, match=f"(?s){family.model_type}.*{family.refusal}.*full softmax attention"):
        CacheShape.of(family.config())


def test_the_documented_table_is_this_table():
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    for family in FAMILIES:
        assert f"| {family.name} | `{family.model_type}` | {family.what} |" in page, family
    assert page.count("| works |") == len(WORKING)


@pytest.mark.parametrize("family", ["nemotron", "stablelm", "doge"])
def test_a_model_that_keeps_slots_from_its_attention_is_refused_by_name(family):
    """Its shorter rows attended to empty slots, and nobody was told."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES)).eval()
    engine = Engine(
        model,
        create_method("full"),
        ThinkTags(()),
        (),
        sampling=SamplingConfig(0),
        batch_rows=2,
        max_new_tokens=4,
    )
    with pytest.raises(KvreproError, match=family if family != "doge" else "Doge"):
        list(engine.run([Request("a", 0, (20, 21, 22)), Request("b", 0, (30, 31, 32, 33, 34))]))
