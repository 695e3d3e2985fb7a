"""The golden numbers of docs/methods.md, for the library and for the transcriptions that judge it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kvrepro.kernels.reference.scores import blocked_key_redundancy, weighted_window_scores
from torch.nn import functional

from kvrepro.cache.rotary import Rotary
from kvrepro.cache.slots import CompressedCache
from kvrepro.methods.budgets import Schedule
from kvrepro.methods.key_scores import KeyDiffMethod
from kvrepro.methods.lazy_eviction import recurrence_score
from kvrepro.methods.learned.importance import ImportancePredictor, PredictorShape
from kvrepro.methods.learned.query_statistics import QueryStatistics
from kvrepro.methods.query_window import smooth
from kvrepro.methods.triattention import TriAttentionMethod
from kvrepro.methods.views import NEVER, EvictionView
from kvrepro.training.trace_attention import future_maxima, label_sequence

from .. import transcriptions
from ..crafted import config
from ..oracle import Seen, oracle_logits

REDUNDANCY_KEYS = torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 0], [0.6, 0.8]])


def test_r_kv_redundancy_table():
    """docs/methods.md#redundancy: column means and their softmax at threshold 0.5."""
    means = blocked_key_redundancy(REDUNDANCY_KEYS[None], 0.5)
    torch.testing.assert_close(means[0], torch.tensor([0.52, 0.52, 0.16, 0.40, 0.0]))
    expected = [0.23928, 0.23928, 0.16694, 0.21223, 0.14226]
    torch.testing.assert_close(means.softmax(-1)[0], torch.tensor(expected), atol=6e-6, rtol=0)
    theirs = transcriptions.r_kv_redundancy(REDUNDANCY_KEYS.numpy(), list(range(5)), 0.5)
    assert [round(theirs[j], 5) for j in range(5)] == expected


def test_a_row_without_a_similar_key_zeroes_the_first_column_only_as_published():
    # the second key is similar to none, its row would count 0.1 in column 0
    keys = torch.tensor([[1.0, 0.0], [0.1, 0.995], [1.0, 0.01]])
    spared, plain = blocked_key_redundancy(keys[None], 0.5), blocked_key_redundancy(keys[None], 0.5, spare_first=False)
    cosine = float(functional.cosine_similarity(keys[0], keys[1], dim=0))
    torch.testing.assert_close(plain - spared, torch.tensor([[cosine / 3, 0.0, 0.0]]), atol=1e-6, rtol=0)


def test_redundancy_in_blocks_of_rows_equals_one_block(monkeypatch):
    torch.manual_seed(0)
    keys = torch.randn(3, 37, 4)
    whole = blocked_key_redundancy(keys)
    monkeypatch.setattr("kvrepro.kernels.reference.scores.SIMILARITY_BLOCK", 3 * 37 * 5)
    torch.testing.assert_close(blocked_key_redundancy(keys), whole)


class _Keys:
    """A view that shows one head with given keys."""

    def __init__(self, keys):
        self.stored = keys[None, None, None]

    def keys(self, layers):
        return self.stored


def test_keydiff_table():
    """docs/methods.md#keydiff: anchor (.2488, .2749)."""
    keys = torch.tensor([[1, 0], [1, 0.1], [0, 2], [-1, 0]])
    expected = [-0.671, -0.7415, -0.7415, 0.671]
    found = KeyDiffMethod().score_layers(_Keys(keys), slice(0, 1))
    torch.testing.assert_close(found[0, 0, 0], torch.tensor(expected), atol=6e-5, rtol=0)
    theirs = transcriptions.key_diff({j: keys[j].double().numpy() for j in range(4)})
    assert list(theirs.values()) == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize(
    ("mri", "delta", "score"),
    [(10, 0, 0.53813), (10, 10, 0.23865), (1, 0, 1.53788), (1, 5, 1.00495), (0, 0, 0.53788), (0, 3, 0.0)],
)
def test_lazy_eviction_table(mri, delta, score):
    """docs/methods.md#lazy_eviction."""
    found = recurrence_score(torch.tensor(float(mri)), torch.tensor(float(delta)))
    assert float(found) == pytest.approx(score, abs=6e-6)
    assert transcriptions.recurrence_score(mri, delta) == pytest.approx(score, abs=6e-6)


def test_a_token_important_at_birth_alone_outranks_one_that_recurs_every_ten_steps():
    """Consequence of the initialisation: MRI 1 gives the full frequency term for good."""
    birth_only = recurrence_score(torch.tensor(1.0), torch.tensor(500.0))
    recurring = recurrence_score(torch.tensor(10.0), torch.tensor(torch.arange(10.0).tolist()))
    assert float(birth_only) == pytest.approx(1.0, abs=1e-6)
    assert recurring.max() < 0.54 < birth_only


def test_triattention_takes_the_newest_token_as_one_token_old():
    """By hand: one channel that turns by pi per position, so a distance of 1 (odd) and 16 even ones.

    A key of even age scores (16 - 1) / 17 and one of odd age minus that; the newest of four has age 1. Standardised
    over the four that is +1 and -1.
    """
    cache = CompressedCache(config(layers=1, q_heads=1, kv_heads=1, head_dim=2), 1, 8, "head")
    cache.rotary = Rotary(torch.tensor([torch.pi]))
    one = torch.ones(1, 1, 1)
    statistics = QueryStatistics(one.to(torch.complex64), one)
    method = TriAttentionMethod(schedule=Schedule(3), calibration=statistics)
    method.prepare(cache)
    keys = cache.rotary.rotate(torch.tensor([1.0, 0.0]).expand(4, 2), torch.arange(4))[None, None]
    cache.admit(keys, keys)
    zero = torch.zeros(1, dtype=torch.int64)
    scores = method.score(EvictionView(cache, zero, 4, zero, zero + NEVER, zero, zero))
    torch.testing.assert_close(scores[0, 0, 0], torch.tensor([1.0, -1.0, 1.0, -1.0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("kind", "expected"), [("max", [3, 3, 4, 4, 4, 9]), ("avg", [4 / 3, 2, 3, 7 / 3, 5 / 3, 9])])
def test_pooling_stops_at_the_candidates_and_averages_count_zeros_beyond_edges(kind, expected):
    scores = torch.tensor([1.0, 3, 2, 4, 1, 9])
    torch.testing.assert_close(smooth(scores, 3, kind, 5), torch.tensor(expected, dtype=torch.float32))


def test_group_reductions_differ_where_the_page_says_they_do():
    """docs/methods.md#pooling-over-the-query-group; two heads, two slots."""
    queries = torch.tensor([[2.0], [-1.0]])[None, None, :, None]  # [N, H, G, w, D]
    keys = torch.tensor([[1.0], [0.0]])[None, None]
    weights = torch.ones(1, 1)
    a = [np.exp(2) / (np.exp(2) + 1), np.exp(-1) / (np.exp(-1) + 1)]
    expected = {
        "max_logits": [a[0], 1 - a[0]],  # maxima of the logits are (2, 0)
        "max": [a[0], 1 - a[1]],
        "mean": [(a[0] + a[1]) / 2, 1 - (a[0] + a[1]) / 2],
    }
    for group, values in expected.items():
        found = weighted_window_scores(queries, keys, None, weights, 1.0, group)[0, 0]
        torch.testing.assert_close(found, torch.tensor(values, dtype=torch.float32))


@pytest.mark.parametrize(("hidden", "parameters"), [(4096, 50_333_696), (3584, 46_139_392)])
def test_predictor_sizes(hidden, parameters):
    """docs/predictor.md#head."""
    with torch.device("meta"):
        head = ImportancePredictor(PredictorShape(hidden, 8192, 2048))
    assert sum(p.numel() for p in head.parameters()) == parameters


@pytest.fixture(scope="module")
def trace(random_models):
    """A short sequence, and its queries, keys and values from the oracle."""
    model, ids, seen = random_models["llama"], [5, 60, 7, 80, 9, 100, 11, 120, 13, 140, 15, 160, 17, 18, 19], Seen()
    oracle_logits(model, ids, torch.zeros(2, 2, len(ids), len(ids), dtype=torch.bool), seen)
    parts = [[x.double().numpy() for x in part] for part in (seen.queries, seen.keys, seen.values)]
    return model, transcriptions.Row(*parts, ids, 5, 9)


def test_answer_labels_equal_the_loops(trace):
    """docs/predictor.md#labels."""
    model, row = trace
    labels = label_sequence(model, row.tokens, 10).labels
    assert labels.tolist() == pytest.approx(transcriptions.answer_labels(row, 10), abs=1e-6)
    assert labels.sum() <= 1


@pytest.mark.parametrize("block", [1, 4, 15, 64])
def test_future_attention_equals_the_loops(trace, block):
    """docs/predictor.md#eviction-judge."""
    model, row = trace
    expected = transcriptions.future_block_maxima(row, block)
    torch.testing.assert_close(
        future_maxima(model, row.tokens, block).double(), torch.tensor(np.stack(expected)), atol=1e-6, rtol=0
    )
