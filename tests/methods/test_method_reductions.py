"""Methods reduce to each other where they should, and random ones keep what their closed form says."""

from __future__ import annotations

import math

import pytest
import torch

from kvrepro.methods.base import EvictionMethod
from kvrepro.methods.query_window import smooth
from kvrepro.methods.table import create_method
from kvrepro.methods.views import EvictionView

from ..crafted import config, crafted_view, kept
from ..method_cases import build, fair

BUDGET = 40


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
