"""Invariants of docs/methods.md#invariants that one eviction shows, for every method of the table."""

from __future__ import annotations

import pytest
import torch

from kvrepro.cache.slots import CompressedCache
from kvrepro.methods.base import EvictionMethod
from kvrepro.methods.query_window import QueryWindowMethod
from kvrepro.methods.table import create_method
from kvrepro.methods.views import EvictionView

from ..crafted import config, crafted_view, kept
from ..method_cases import COMPRESSED, build, fair

BUDGET = 40


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
    alone = kept(again, other.subset([1]))
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
    from kvrepro.cache.slots import KeepPlan
    from tests.cache.test_cache import prefill, step

    model, found = random_models["llama"], []
    slots = torch.tensor([1, 2, 5, 7, 8])
    for order in (slots, slots[torch.tensor([3, 0, 4, 2, 1])]):
        cache = CompressedCache(model.config, 1, 12)
        prefill(model, cache, [5, 60, 7, 80, 9, 100, 11, 120, 13])
        cache.compact(KeepPlan(torch.tensor([0]), order[None, None, None]))
        found.append(step(model, cache, [50]))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)
