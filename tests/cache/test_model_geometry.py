"""What models do otherwise than Llama, and odd sizes: attention scale, layers and channels that RoPE turns.

Kept sets against `transcriptions`, as in `test_rules`, on models whose numbers of heads, layers and tokens are odd,
with an attention scale of their own (Gemma 2, Granite), layers without RoPE (SmolLM3) or interleaved RoPE (Cohere).
"""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from kvrepro.cache.prefill import Prefill
from kvrepro.cache.rotary import Rotary
from kvrepro.cache.shape import CacheShape
from kvrepro.cache.slots import CompressedCache, KeepPlan
from kvrepro.engine.requests import Request
from kvrepro.errors import KvreproError
from kvrepro.methods.learned.judge import EvictionJudge
from kvrepro.methods.learned.query_statistics import QueryStatistics
from kvrepro.methods.table import create_method
from kvrepro.training.query_statistics import measure_statistics
from tests.methods.test_rules import rule_of

from ..families import FULL, SIZES
from ..recorded import make_requests, record
from ..transcriptions import simulate

# family -> what differs from the sizes of `families`, and what its transcription is told
MODELS = {
    "llama": (dict(num_hidden_layers=3, num_attention_heads=9, num_key_value_heads=3, head_dim=10, hidden_size=54), {}),
    "gemma2": (dict(layer_types=FULL[:2], attn_logit_softcapping=None, query_pre_attn_scalar=1), {"scale": 1.0}),
    "granite": (dict(attention_multiplier=0.9), {"scale": 0.9}),
    "smollm3": (dict(no_rope_layers=[1, 0]), {"still": (1,)}),
    "cohere": ({}, {"interleaved": True}),
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
ODD = dict(budget=37, window=9, evict_every=7)
QUERIES = dict(obs_window=5)
UNDONE = ("triattention", "expected_attention")
CASES = [
    *[("llama", m) for m in ("triattention", "snapkv", "rkv", "vase_attnv", "vase_dkv", "gkv", "expected_attention")],
    *[("gemma2", m) for m in ("snapkv", "rkv", "gkv", "vase_attnv", "rpc", "tova", "h2o", "h2o_dynts", "snapkv_dynts")],
    *[("gemma2", m) for m in ("rkv_dynts", "raas", "foresight_kv", "expected_attention")],
    *[("granite", m) for m in ("snapkv", "expected_attention")],
    *[(model, m) for model in ("smollm3", "cohere") for m in UNDONE],
]


@pytest.fixture(scope="module")
def models():
    """Small random ones, by family."""
    made = {}
    for family, (changes, _) in MODELS.items():
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **{**SIZES, "num_hidden_layers": 2, "rope_parameters": ROPE, **changes})
        made[family] = AutoModelForCausalLM.from_config(config).eval()
    return made


def sizes_for(model, method: str) -> dict:
    """The odd budget, and what the method needs, in the model's sizes."""
    shape, found = CacheShape.of(model.config), {**ODD, "protocol": "fair"}
    torch.manual_seed(1)
    if method in ("snapkv", "rkv", "vase_attnv", "gkv", "rpc", "snapkv_dynts", "rkv_dynts"):
        found |= QUERIES
    if method == "expected_attention":
        found |= dict(obs_window=11, future=13)
    if method in ("snapkv_dynts", "rkv_dynts"):
        found["evict_every"] = 11
    if method == "triattention":
        mean = torch.randn(shape.layers, shape.q_heads, shape.head_dim // 2, dtype=torch.complex64)
        found["calibration"] = QueryStatistics(mean, mean.abs() + 0.5)
    if method == "foresight_kv":
        found["judge"] = EvictionJudge(shape.layers, shape.kv_heads, shape.head_dim, shape.q_heads // shape.kv_heads)
    return found


def run(model, method: str, prompts=(7, 13), new_tokens: int = 57):
    """Both rows evict several times."""
    sizes = sizes_for(model, method)
    return record(model, create_method(method, **sizes), make_requests(prompts, new_tokens, (31, None))), sizes


@pytest.mark.parametrize(("family", "method"), CASES)
def test_it_selects_what_the_rule_written_out_selects(models, family, method):
    recording, sizes = run(models[family], method)
    for row, found in enumerate(recording.evictions):
        assert len(found) >= 2
        expected = simulate(rule_of(recording, row, "fair", sizes, **MODELS[family][1]))
        assert [kept for _, kept in expected] == [eviction.kept for eviction in found]


@pytest.mark.parametrize("method", ["snapkv", "rkv", "vase_attnv"])
def test_slots_stay_in_the_order_of_time_where_the_originals_leave_that_of_scores(models, method):
    """The declared deviation: equal at the first eviction, and from the second on pooling meets other neighbours."""
    recording, sizes = run(models["llama"], method)
    equal, shared = [], []
    for row, found in enumerate(recording.evictions):
        rule = rule_of(recording, row, "fair", sizes)
        rule.by_score = True
        for (_, original), eviction in zip(simulate(rule), found, strict=True):
            heads = [
                (set(a), set(b))
                for x, y in zip(original, eviction.kept, strict=True)
                for a, b in zip(x, y, strict=True)
            ]
            assert all(kept == sorted(kept) for layer in eviction.kept for kept in layer)
            equal.append(all(a == b for a, b in heads))
            shared += [len(a & b) / len(a) for a, b in heads]
        assert equal[-len(found)], "the first eviction finds slots in the order of time in both"
    assert not all(equal)
    assert sum(shared) / len(shared) > 0.75


def eager_attention(model, tokens: list[int]) -> torch.Tensor:
    """The model's own probabilities of the last query, `[L, Hq, n]`."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            out = model(input_ids=torch.tensor([tokens]), output_attentions=True, use_cache=False)
    finally:
        model.set_attn_implementation(before)
    return torch.stack([layer[0, :, -1] for layer in out.attentions])


@pytest.mark.parametrize("family", ["gemma2", "granite"])
def test_scores_are_the_models_own_attention(models, family):
    """The newest query over all slots, per layer: `tova`; no constant of ours stands between."""
    model = models[family]
    method = create_method("tova", **{**ODD, "protocol": "fair"})
    scores, original = [], method.score
    object.__setattr__(method, "score", lambda view: scores.append(original(view)) or scores[-1])
    recording = record(model, method, make_requests((7,), 57, (None,)))
    first = recording.evictions[0][0]
    expected = eager_attention(model, recording.sequence(0)[: first.seen]).mean(1)
    torch.testing.assert_close(scores[0][:, 0, 0], expected, atol=1e-6, rtol=1e-4)
    shape = CacheShape.of(model.config)
    assert recording.cache.scaling == (MODELS[family][1]["scale"],) * shape.layers != (shape.head_dim**-0.5,) * 2


def test_the_kernels_are_given_the_models_scale(models):
    """On a GPU another function scores the candidates; its torch twin stands in for it here."""
    model, kept = models["gemma2"], []
    for impl in ("auto", "reference"):
        method = create_method("snapkv", **sizes_for(model, "snapkv"))
        object.__setattr__(method, "impl", impl)
        recording = record(model, method, make_requests((7,), 57, (None,)), with_oracle=False)
        kept.append([eviction.kept for eviction in recording.evictions[0]])
    assert kept[0] == kept[1]


def test_layers_of_different_scale_are_scored_apart(models):
    model = deepcopy(models["gemma2"])
    model.model.layers[1].self_attn.scaling = 0.3
    method = create_method("tova", **{**ODD, "protocol": "fair"})
    scores, original = [], method.score
    object.__setattr__(method, "score", lambda view: scores.append(original(view)) or scores[-1])
    recording = record(model, method, make_requests((7,), 57, (None,)))
    expected = eager_attention(model, recording.sequence(0)[: recording.evictions[0][0].seen]).mean(1)
    torch.testing.assert_close(scores[0][:, 0, 0], expected, atol=1e-6, rtol=1e-4)


def keys_of(model, tokens: list[int], first: int) -> torch.Tensor:
    """`[L, H, n, D]` of tokens that begin at a position; attention is relative, so only their rotation differs."""
    cache = DynamicCache()
    positions = torch.arange(first, first + len(tokens))[None]
    with torch.inference_mode():
        model(input_ids=torch.tensor([tokens]), position_ids=positions, past_key_values=cache, use_cache=True)
    return torch.stack([layer.keys[0] for layer in cache.layers])


@pytest.mark.parametrize("family", MODELS)
def test_keys_are_turned_as_the_model_turns_them(models, family):
    model, tokens = models[family], [5, 60, 7, 80, 9]
    rotary, coarse = Rotary.of(model), Rotary.of(deepcopy(model).to(torch.bfloat16))
    assert (rotary.interleaved, rotary.rotates) == (coarse.interleaved, coarse.rotates)
    near, far = keys_of(model, tokens, 0), keys_of(model, tokens, 23)
    torch.testing.assert_close(rotary.rotate(near, torch.tensor(23), scaled=False), far, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(
        rotary.unrotate(far, torch.arange(23, 28)), rotary.unrotate(near, torch.arange(5)), atol=2e-5, rtol=2e-5
    )
    for layer in MODELS[family][1].get("still", ()):
        assert torch.equal(rotary.rotate(near, torch.tensor(23))[layer], near[layer])


@pytest.mark.parametrize("family", ["smollm3", "cohere"])
def test_reindexed_keys_move_as_the_model_would_have_written_them(models, family):
    model, tokens = models[family], list(range(20, 32))
    written, earlier = keys_of(model, tokens, 40), keys_of(model, tokens, 37)
    method = create_method("streaming_llm", 9, window=0, protocol="fair", evict_every=3, sinks=2, reindex=True)
    cache = CompressedCache(model.config, 1, 12)
    cache.rotary = Rotary.of(model)
    method.prepare(cache)
    cache.admit(written, written)
    method.admit(cache, 0, Prefill(torch.zeros(12), written, written, torch.zeros(1)), Request("0", 0, ()))
    # the newest seven slots move three places
    plan = KeepPlan(torch.tensor([0]), torch.tensor([0, 1, *range(5, 12)])[None, None, None])
    cache.compact(plan)
    method.after_compact(cache, plan)
    moved = cache.kv[0, :, 0, :, :9]
    assert torch.equal(moved[:, :, :2], written[:, :, :2])
    torch.testing.assert_close(moved[:, :, 2:], earlier[:, :, 5:], atol=2e-5, rtol=2e-5)
    for layer in MODELS[family][1].get("still", ()):
        assert torch.equal(moved[layer][:, 2:], written[layer][:, 5:])


def test_a_rotation_of_another_kind_is_refused_by_name(models):
    model = deepcopy(models["llama"])
    given = model.model.rotary_emb.forward
    model.model.rotary_emb.forward = lambda x, position_ids: given(x, position_ids * 2)
    with pytest.raises(KvreproError, match=r"'llama' turns the keys of layer 0 neither in .* \(f, f \+ 5\) nor"):
        Rotary.of(model)


def test_statistics_pair_the_channels_that_turn_together(models):
    """Cohere's queries before their rotation, caught where they are projected."""
    model, tokens = models["cohere"], [5, 60, 7, 80, 9, 11]
    caught = []
    hook = model.model.layers[0].self_attn.q_proj.register_forward_hook(lambda _, args, out: caught.append(out[0]))
    found = measure_statistics(model, [tokens])
    hook.remove()
    # the first two calls are of a single token each, by which the rotation is told
    plain = caught[-1].unflatten(-1, (6, -1))
    torch.testing.assert_close(found.mean[0], torch.view_as_complex(plain.unflatten(-1, (-1, 2))).mean(0))
