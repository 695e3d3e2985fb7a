"""Invariants of docs/methods.md#invariants that one eviction or one short run shows, for every registered method."""

from __future__ import annotations

import math

import pytest
import torch

from kvrepro.cache.prefill import Prefill
from kvrepro.cache.rotary import Rotary
from kvrepro.cache.slots import CompressedCache
from kvrepro.engine.engine import Engine
from kvrepro.engine.requests import Request, SamplingConfig
from kvrepro.methods.base import EvictionMethod
from kvrepro.methods.query_window import QueryWindowMethod, smooth
from kvrepro.methods.recency import StreamingLLMMethod
from kvrepro.methods.table import METHODS, create_method
from kvrepro.methods.views import NEVER, EvictionView, StepView
from kvrepro.models.tokens import ThinkTags

from .crafted import config, crafted_view, kept
from .method_cases import COMPRESSED, build, fair, published
from .recorded import THINK_END, make_requests, record

BUDGET = 40


def engine_of(model, method, new_tokens: int = 45, **kwargs) -> Engine:
    return Engine(
        model, method, ThinkTags((THINK_END,)), (), sampling=SamplingConfig(), batch_rows=2,
        max_new_tokens=new_tokens, **kwargs,
    )  # fmt: skip


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


# ---------------------------------------------------------------------------------------- one eviction (3, 11 to 15)


def fair_view(name: str, length: int = BUDGET + 6, **kwargs) -> tuple[EvictionMethod, EvictionView]:
    method = build(name, length - 6, **fair(name))
    return method, crafted_view(method, length, **kwargs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", COMPRESSED)
def test_scores_are_finite_in_half_precision(method, dtype):
    chosen, view = fair_view(method, dtype=dtype, answer_from=40)
    scores = chosen.score(view)
    if method == "dynts_bottom":
        # the only one whose definition is infinite beside the pins
        scores = scores[~(view.is_question | view.is_answer).expand_as(scores)]
    assert scores.isfinite().all()
    slots = kept(chosen, view)
    assert slots.shape[-1] == BUDGET
    assert (slots.diff(dim=-1) > 0).all()


@pytest.mark.parametrize("method", COMPRESSED)
def test_scores_have_the_shape_that_the_frame_expects(method):
    chosen, view = fair_view(method)
    layers, rows, heads, slots = chosen.score(view).shape
    assert layers in (1, 2) and rows == 2 and heads in (1, 2)
    assert slots >= view.length - chosen.schedule.window


@pytest.mark.parametrize("method", COMPRESSED)
def test_a_row_is_scored_as_if_it_were_alone(method):
    chosen, view = fair_view(method, rows=3)
    together = kept(chosen, view)
    again, other = fair_view(method, rows=3)
    alone = kept(again, other.subset(torch.tensor([False, True, False])))
    assert torch.equal(together[:, 1:2], alone)


@pytest.mark.parametrize("method", COMPRESSED)
def test_layers_in_blocks_score_like_all_at_once(method, monkeypatch):
    chosen, view = fair_view(method)
    whole = chosen.score(view)
    again, other = fair_view(method)
    monkeypatch.setattr("kvrepro.methods.views.BLOCK_VALUES", 1)
    torch.testing.assert_close(again.score(other), whole, atol=1e-6, rtol=1e-6)


QUERY_METHODS = ["snapkv", "rkv", "gkv", "vase_attnv", "rpc", "tova", "h2o_dynts", "snapkv_dynts", "rkv_dynts"]


@pytest.mark.parametrize("method", QUERY_METHODS)
def test_equal_query_heads_score_like_one_query_head(method):
    chosen = build(method, BUDGET, **fair(method))
    many = crafted_view(chosen, BUDGET + 6, repeat_queries=True)
    one = crafted_view(chosen, BUDGET + 6, repeat_queries=True, sizes=config(q_heads=2))
    assert many.cache.shape.q_heads == 3 * one.cache.shape.q_heads
    torch.testing.assert_close(chosen.score(many), chosen.score(one), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", ["snapkv", "rkv", "gkv", "vase_attnv"])
def test_with_one_query_head_per_kv_head_all_group_reductions_agree(method):
    found = []
    for group in ("max_logits", "max", "mean"):
        chosen = build(method, BUDGET, **{**fair(method), "group": group})
        found.append(chosen.score(crafted_view(chosen, BUDGET + 6, sizes=config(q_heads=2))))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
    differ = [build(method, BUDGET, **{**fair(method), "group": g}) for g in ("max_logits", "max")]
    scores = [m.score(crafted_view(m, BUDGET + 6)) for m in differ]
    assert not torch.allclose(*scores)


@pytest.mark.parametrize("method", ["keydiff", "knorm"])
def test_scaling_keys_changes_knorm_alone(method):
    chosen, view = fair_view(method)
    _, scaled = fair_view(method, scale_keys=3.0)
    same = torch.allclose(chosen.score(view), chosen.score(scaled), atol=1e-6)
    assert same == (method == "keydiff")


def test_redundancy_does_not_see_the_length_of_keys():
    chosen = build("rkv", BUDGET, **{**fair("rkv"), "mix": 0.0})
    small, large = (crafted_view(chosen, BUDGET + 6, scale_keys=s) for s in (1.0, 5.0))
    torch.testing.assert_close(chosen.score(small), chosen.score(large))


@pytest.mark.parametrize("options", [{}, {"group": "mean"}, {"candidates_only": False}])
def test_importance_sums_to_one_before_pooling(options):
    group = options.pop("group", "max_logits")
    chosen = create_method("snapkv", BUDGET, window=8, evict_every=6, protocol="fair", obs_window=4, group=group)
    if options:
        # max over the group before the softmax is one distribution; over all slots too
        chosen = create_method("tova", BUDGET, window=8, evict_every=6, protocol="fair", obs_window=4)
    view = crafted_view(chosen, BUDGET + 6)
    assert isinstance(chosen, QueryWindowMethod)
    scores = chosen.attention_scores(view, slice(0, 2), **options)
    torch.testing.assert_close(scores.sum(-1), torch.ones(2, 2, 2))
    if not options:
        assert (scores[..., -8:] == 0).all(), "the window is no candidate"


class Constant(EvictionMethod):
    """All slots alike."""

    name, source = "constant", "test"

    def score(self, view):
        return torch.zeros(1, len(view.rows), 1, view.length)


@pytest.mark.parametrize("granularity", ["shared", "layer", "head"])
def test_ties_go_to_the_earlier_slot(granularity):
    chosen = create_method(Constant, 20, window=4, evict_every=300, protocol="fair", granularity=granularity)
    slots = kept(chosen, crafted_view(chosen, 320))
    assert (slots == torch.tensor([*range(16), *range(316, 320)])).all()


def test_unsorted_slots_give_the_same_logits(random_models):
    """Attention does not care for the order of slots once keys are rotated."""
    from kvrepro.cache.slots import CompressedCache, KeepPlan

    from .test_cache import prefill, step

    model, found = random_models["llama"], []
    slots = torch.tensor([1, 2, 5, 7, 8])
    for order in (slots, slots[torch.tensor([3, 0, 4, 2, 1])]):
        cache = CompressedCache(model.config, 1, 12)
        prefill(model, cache, [5, 60, 7, 80, 9, 100, 11, 120, 13])
        cache.compact(KeepPlan(torch.tensor([0]), order[None, None, None]))
        found.append(step(model, cache, [50]))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


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


# ---------------------------------------------------------------------------------------- reductions (18)


def same_plans(a: EvictionMethod, b: EvictionMethod, length: int, **kwargs) -> bool:
    return torch.equal(kept(a, crafted_view(a, length, **kwargs)), kept(b, crafted_view(b, length, **kwargs)))


SIZES = {"window": 8, "evict_every": 6, "protocol": "fair"}


def test_streaming_without_sinks_is_the_window():
    window = create_method("window", BUDGET, **SIZES)
    assert same_plans(create_method("streaming_llm", BUDGET, **SIZES, sinks=0), window, BUDGET + 6)
    assert same_plans(create_method("streaming_dynts", BUDGET, **SIZES, sinks=0), window, BUDGET + 6)
    assert not same_plans(create_method("streaming_llm", BUDGET, **SIZES), window, BUDGET + 6)


@pytest.mark.parametrize("seed", range(4))
def test_r_kv_without_redundancy_is_snapkv(seed):
    snapkv = create_method("snapkv", BUDGET, **SIZES, obs_window=4)
    assert same_plans(create_method("rkv", BUDGET, **SIZES, obs_window=4, mix=1.0), snapkv, BUDGET + 6, seed=seed)
    assert not same_plans(create_method("rkv", BUDGET, **SIZES, obs_window=4), snapkv, BUDGET + 6, seed=seed)


def test_g_kv_without_memory_and_redundancy_is_max_group_attention_without_pooling():
    chosen = create_method("gkv", BUDGET, **SIZES, obs_window=4, mix=1.0, decay=0.0)
    view = crafted_view(chosen, BUDGET + 6)
    local = chosen.attention_scores(view, slice(0, 2), candidates_only=False)[..., : BUDGET - 2]
    expected = local.sort(dim=-1, descending=True, stable=True).indices[..., : BUDGET - 8].sort(-1).values
    assert torch.equal(kept(chosen, view)[..., : BUDGET - 8], expected)


def test_vase_with_room_for_large_values_only_ranks_by_value_range():
    chosen = create_method("vase_attnv", BUDGET, **SIZES, obs_window=4, large_share=1.0, sinks=0)
    view = crafted_view(chosen, BUDGET + 6)
    values = view.values(slice(0, 2))
    spread = (values.amax(-1) - values.amin(-1))[..., : BUDGET - 2]
    expected = spread.topk(BUDGET - 8).indices.sort(-1).values
    assert torch.equal(kept(chosen, view)[..., : BUDGET - 8], expected)


def test_dynts_with_a_constant_score_is_the_question_and_the_earliest_thoughts():
    chosen = build("dynts", BUDGET, **fair("dynts"))
    view = crafted_view(chosen, BUDGET + 6)
    view.cache.slot_state["importance"][:] = 1.0
    assert (kept(chosen, view) == torch.tensor([*range(BUDGET - 8), *range(BUDGET - 2, BUDGET + 6)])).all()


def test_h2o_of_the_last_query_alone_is_the_published_h2o():
    """Shared, one query head per KV head: mass of the newest query = D-H2O."""
    dynts = create_method("h2o_dynts", BUDGET, **SIZES)
    view = crafted_view(dynts, BUDGET + 6)
    attention = dynts.attention_scores(view, slice(0, 2), candidates_only=False)
    accumulated = create_method("h2o", BUDGET, **SIZES, granularity="shared")
    other = crafted_view(accumulated, BUDGET + 6)
    other.cache.slot_state["accumulated_mass"][:, :, :, : BUDGET + 6] = attention
    assert torch.equal(kept(dynts, view), kept(accumulated, other))


def test_published_h2o_on_one_layer_with_a_window_of_one_is_tova_with_the_newest_token_pinned():
    one_layer = config(layers=1)
    ours = create_method("h2o_dynts", BUDGET, window=1, evict_every=6, protocol="fair")
    tova = create_method("tova", BUDGET, window=1, evict_every=6, protocol="fair")
    assert same_plans(ours, tova, BUDGET + 6, sizes=one_layer)
    assert not same_plans(ours, tova, BUDGET + 6), "with two layers TOVA has two sets"


# ---------------------------------------------------------------------------------------- statistics (19)


def test_random_attention_survival_follows_the_closed_form():
    """((K - l) / (K + r - l))^m after m evictions; here K 24, r 8, l 6, two evictions of the same tokens."""
    k, r, n_prompt, rows = 24, 8, 6, 400
    chosen = create_method("random_attention", k, window=r, evict_every=r, protocol="as_published")
    view = crafted_view(chosen, k + 2 * r, n_prompt=n_prompt, rows=rows)
    slots = kept(chosen, view)
    assert (slots[..., :n_prompt] == torch.arange(n_prompt)).all()
    share = (k - n_prompt) / (k + r - n_prompt)
    first = torch.zeros(2, rows, 2, k + 2 * r).scatter(-1, slots, 1.0)
    draws = first.shape[0] * rows * first.shape[2]
    bound = 5 * math.sqrt(share * (1 - share) / draws)
    assert ((first.mean((0, 1, 2))[n_prompt : k + r] - share).abs() < bound).all()
    # a second, independent draw of what is left: r newer tokens come, the old buffer becomes candidates
    [plan], _ = chosen.plans(view)
    view.cache.compact(plan)
    for row in range(rows):
        view.cache.lengths[row] = k + 2 * r
    view.cache.positions[:, :, :, k + r : k + 2 * r] = torch.arange(k + 2 * r, k + 3 * r)
    again = EvictionView(
        view.cache, view.rows, k + 2 * r, view.n_prompt, view.answer_from, view.noise_keys, view.evictions + 1
    )
    [plan], _ = chosen.plans(again)
    positions = again.positions.gather(-1, plan.slots)
    twice = torch.zeros(2, rows, 2, k + 3 * r).scatter(-1, positions, 1.0).mean((0, 1, 2))
    assert ((twice[n_prompt : k + r] - share**2).abs() < bound).all()
    assert ((twice[k + r : k + 2 * r] - share).abs() < bound).all(), "the old buffer has survived one draw"


def test_layers_and_heads_draw_for_themselves():
    chosen = build("random_attention", BUDGET, **fair("random_attention"))
    slots = kept(chosen, crafted_view(chosen, BUDGET + 6))
    sets = {tuple(slots[layer, row, head].tolist()) for layer in range(2) for row in range(2) for head in range(2)}
    assert len(sets) == 8


def test_vase_draws_without_replacement_in_proportion_to_attention():
    """Room for one drawn slot: its frequency is its share of the pooled attention."""
    # 12 slots stay: window 8, of the 4 others 3 by value range
    chosen = create_method("vase_attnv", 12, window=8, evict_every=3, protocol="fair", obs_window=4, sinks=0)
    rounds, sizes = 2000, config(layers=1, q_heads=2, kv_heads=1)
    view = crafted_view(chosen, 15, rows=rounds, sizes=sizes)
    # every row holds the same, only the noise differs
    view.cache.kv[:] = view.cache.kv[:, :, :1].clone()
    view.cache.query_ring.storage[:] = view.cache.query_ring.storage[:1].clone()
    weights = smooth(chosen.attention_scores(view, slice(0, 1)), 5, "avg", 7)[0, 0, 0, :7]
    values = view.values(slice(0, 1))[0, 0, 0, :7]
    large = (values.amax(-1) - values.amin(-1)).topk(3).indices
    slots = kept(chosen, view)[0, :, 0]
    assert slots.shape[-1] == 12 and (slots.diff(dim=-1) > 0).all()
    counts = torch.bincount(slots.flatten(), minlength=15)
    assert (counts[large] == rounds).all()
    weights[large] = 0
    share = weights / weights.sum()
    others = share > 0
    error = (counts[:7] / rounds - share).abs()[others]
    assert (error < 5 * (share * (1 - share) / rounds).sqrt()[others]).all()


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
