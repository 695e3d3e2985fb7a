"""Label maps, loss and recipes against the published numbers and against formulas written out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from kvrepro.errors import KvreproError, UnknownNameError
from kvrepro.training.importance import loss as predictor_loss
from kvrepro.training.importance.loss import batch_loss, emphasis_weights, ranking_loss, weighted_mse
from kvrepro.training.importance.recipe import LABEL_MAPS, PredictorRecipe, make_recipe, published_recipe

RAW = torch.tensor([1e-5, 1e-4, 1e-3, 1e-2])


def map_labels(raw, name):
    return PredictorRecipe(label_map=name).targets(raw)


@pytest.mark.parametrize(
    ("name", "expected"), [("llama", [0.1, 1, 10, 100]), ("qwen", [1.0541, 2.1032, 4.1964, 8.3730])]
)
def test_label_map_golden_numbers(name, expected):
    """docs/predictor.md#label-maps."""
    torch.testing.assert_close(map_labels(RAW, name), torch.tensor(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "low", "high"), [("llama", 4.0e-4, 5.0e-4), ("qwen", 8.52e-4, 1.79e-3)])
def test_labels_that_count_five_times(name, low, high):
    """The raw range whose mapped labels lie in [4, 5): docs/predictor.md#loss."""
    raw = torch.tensor([0.98 * low, 1.005 * low, 0.995 * high, 1.01 * high])
    assert emphasis_weights(map_labels(raw, name), (4.0, 5.0, 5.0)).tolist() == [1, 5, 5, 1]


@pytest.mark.parametrize("name", LABEL_MAPS)
def test_maps_keep_the_order_and_have_no_holes(name):
    raw = torch.tensor([0.0, 1e-6, 2e-6, 2e-6, 1e-3, 0.2])
    mapped = map_labels(raw, name)
    assert mapped.isfinite().all()
    assert (mapped.diff() >= 0).all()
    assert mapped[2] == mapped[3]
    with pytest.raises(UnknownNameError, match="llama, log, qwen, rank"):
        map_labels(raw, "softmax")


def test_rank_and_log_maps_by_hand():
    assert map_labels(torch.tensor([3.0, 1.0, 2.0, 2.0, 9.0]), "rank").tolist() == [7.5, 0, 3.75, 3.75, 10]
    assert map_labels(torch.tensor([5.0]), "rank").tolist() == [0]
    torch.testing.assert_close(map_labels(RAW, "log"), torch.tensor([10.0, 100, 1000, 10000]).log())


def test_ranking_loss_golden_number():
    """docs/predictor.md#loss."""
    found = one_trace(torch.tensor([0.0, 0, 1]), torch.tensor([1.0, 2, 4]))
    assert found.item() == pytest.approx(0.31567, abs=1e-5)


def one_trace(predicted, labels, pairs=None, generator=None):
    return ranking_loss([predicted], [labels], PredictorRecipe(tau=0.5, pairs=pairs), generator)


def by_hand(p, y, tau=0.5):
    terms = [
        torch.nn.functional.softplus(-math.copysign(1, y[i] - y[j]) * (p[i] - p[j]) / tau)
        for i, j in combinations(range(len(y)), 2)
        if y[i] != y[j]
    ]
    return torch.stack(terms).mean()


@pytest.mark.parametrize("chunk", [1, 7, 2**22])
def test_chunked_ranking_loss_and_gradient_equal_all_pairs_at_once(chunk, monkeypatch):
    monkeypatch.setattr(predictor_loss, "PAIR_CHUNK", 13 * chunk)
    torch.manual_seed(1)
    labels = torch.randint(0, 6, (13,)).float()
    ours, theirs = (torch.randn(13, generator=torch.Generator().manual_seed(2)).requires_grad_() for _ in range(2))
    loss, expected = one_trace(ours, labels), by_hand(theirs, labels)
    (3 * loss).backward()
    (3 * expected).backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_drawn_pairs_estimate_the_mean_over_all_pairs():
    torch.manual_seed(0)
    predicted, labels = torch.randn(200), torch.randn(200)
    exact = one_trace(predicted, labels).item()
    drawn = [
        one_trace(predicted, labels, pairs=500, generator=torch.Generator().manual_seed(s)).item() for s in range(80)
    ]
    mean, spread = sum(drawn) / 80, torch.tensor(drawn).std().item()
    assert abs(mean - exact) < 4 * spread / math.sqrt(80)
    assert spread > 0


def test_all_labels_equal_have_no_pairs_and_no_gradient():
    predicted = torch.randn(5, requires_grad=True)
    for pairs in (None, 4):
        loss = one_trace(predicted, torch.ones(5), pairs=pairs, generator=torch.Generator())
        assert loss.item() == 0
        loss.backward()
    assert predicted.grad.abs().sum() == 0


def test_published_loss_equals_the_formula_written_out():
    recipe = published_recipe("r1-llama")
    raw = [torch.tensor([1e-5, 4.2e-4, 4.9e-4, 7e-4]), torch.tensor([4.5e-4, 2e-3])]
    labels = [recipe.targets(r) for r in raw]
    predicted = [torch.tensor([0.3, 4.0, 5.5, 6.0]), torch.tensor([4.0, 12.0])]
    total = 0.0
    for p, y in zip(torch.cat(predicted).tolist(), torch.cat(labels).tolist(), strict=True):
        total += (5 if 4 <= y < 5 else 1) * (p - y) ** 2
    found = batch_loss(predicted, labels, recipe)
    assert found["loss"].item() == pytest.approx(total / 6, rel=1e-6)
    assert found["ranking"].item() == 0
    half = batch_loss(predicted, labels, replace(recipe, alpha=0.25))
    ranking = (by_hand(predicted[0], labels[0]) + by_hand(predicted[1], labels[1])) / 2
    assert half["loss"].item() == pytest.approx(0.25 * total / 6 + 0.75 * ranking.item(), rel=1e-5)


def test_weights_do_not_enter_the_denominator():
    assert weighted_mse(torch.tensor([0.0, 0.0]), torch.tensor([4.0, 2.0]), (4, 5, 5)).item() == (5 * 16 + 4) / 2


@pytest.mark.parametrize(("model", "label_map"), [("r1-llama", "llama"), ("r1-qwen", "qwen")])
def test_the_published_recipe_is_the_repositorys(model, label_map):
    """docs/predictor.md#training-settings."""
    assert published_recipe(model) == PredictorRecipe(
        name="published",
        label_map=label_map,
        label_dtype="bfloat16",
        widths=(8192, 2048),
        alpha=1.0,
        tau=0.5,
        pairs=None,
        emphasis=(4.0, 5.0, 5.0),
        lr=5e-4,
        token_share=1.0,
        betas=(0.9, 0.95),
        weight_decay=0.01,
        grad_clip=1.0,
        warmup_share=0.1,
        epochs=15,
        batch_traces=256,
        micro_traces=4,
        patience=None,
        seed=2025,
    )


def test_recipes_refuse_what_does_not_exist():
    with pytest.raises(KvreproError, match="no published recipe for 'other'"):
        published_recipe("other")
    with pytest.raises(UnknownNameError, match="best, published"):
        make_recipe("good", "r1-llama")
    with pytest.raises(UnknownNameError, match="unknown setting 'learning_rate'"):
        make_recipe("best", "r1-llama", learning_rate=1)
    for changes in ({"alpha": 1.5}, {"epochs": 0}, {"label_map": "x"}, {"label_dtype": "int8"}, {"pairs": 0}):
        with pytest.raises(KvreproError):
            make_recipe("best", "r1-llama", **changes)
