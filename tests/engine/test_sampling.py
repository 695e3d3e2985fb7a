"""Sampling against transformers' own filters, and the noise against its distribution."""

from __future__ import annotations

import pytest
import torch
from kvrepro.kernels.reference.sampling import NOT_FINITE, gumbel, uniform
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from kvrepro.engine import sampling
from kvrepro.engine.batch import EVICTION, SAMPLING, ActiveBatch, Row, row_key
from kvrepro.engine.requests import Request, SamplingConfig
from kvrepro.engine.sampling import next_tokens, sample_tokens
from kvrepro.errors import KvreproError


def draw(logits: torch.Tensor, config: SamplingConfig, n: int) -> torch.Tensor:
    """`n` draws of one row's distribution."""
    return sample_tokens(logits.expand(n, -1), config, torch.arange(n), torch.zeros(n, dtype=torch.int64))


def published_order(logits: torch.Tensor, temperature: float, top_p: float, top_k: int) -> torch.Tensor:
    """DynTS: temperature, then top-p on the whole distribution, then top-k; written out by hand."""
    p = (logits / temperature).softmax(-1)
    order = p.argsort(descending=True)
    kept, mass = [], 0.0
    for token in order.tolist():
        if mass >= top_p:
            break
        kept.append(token)
        mass += p[token].item()
    out = torch.zeros_like(p)
    out[kept[:top_k]] = p[kept[:top_k]]
    return out / out.sum()


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"), [(0.6, 0.95, 20), (1.0, 0.8, 5), (1.3, 1.0, 7), (0.9, 0.7, 0)]
)
@pytest.mark.parametrize("order", ["hf", "dynts"])
def test_frequencies_are_those_of_the_filtered_distribution(temperature, top_p, top_k, order):
    torch.manual_seed(0)
    logits = torch.randn(1, 40) * 2
    if order == "hf":
        filtered = TemperatureLogitsWarper(temperature)(None, logits)
        if top_k:
            filtered = TopKLogitsWarper(top_k)(None, filtered)
        if top_p < 1:
            filtered = TopPLogitsWarper(top_p)(None, filtered)
        expected = filtered.softmax(-1)[0]
    else:
        expected = published_order(logits[0], temperature, top_p, top_k or 40)
    n = 40_000
    found = draw(logits, SamplingConfig(temperature, top_p, top_k, order), n).bincount(minlength=40) / n
    assert set(found.nonzero().flatten().tolist()) <= set(expected.nonzero().flatten().tolist())
    # five standard errors of a binomial share
    assert torch.all((found - expected).abs() <= 5 * (expected * (1 - expected) / n).sqrt() + 1e-6)


def test_the_two_orders_differ_where_they_should():
    # top-k first renormalises, so the nucleus is reached earlier
    logits = torch.tensor([[0.30, 0.25, 0.20, 0.15, 0.10]]).log()
    hf = set(draw(logits, SamplingConfig(1.0, 0.7, 3, "hf"), 5000).tolist())
    dynts = set(draw(logits, SamplingConfig(1.0, 0.7, 3, "dynts"), 5000).tolist())
    assert hf == {0, 1}
    assert dynts == {0, 1, 2}


def test_greedy_ignores_the_noise():
    logits = torch.randn(3, 50)
    for key in (0, 1):
        found = sample_tokens(logits, SamplingConfig(temperature=0), torch.full((3,), key), torch.arange(3))
        assert torch.equal(found, logits.argmax(-1))


def test_a_row_draws_the_same_in_any_batch():
    torch.manual_seed(1)
    logits, keys, steps = torch.randn(8, 60), torch.randint(0, 2**60, (8,)), torch.arange(8)
    together = sample_tokens(logits, SamplingConfig(), keys, steps)
    alone = [
        int(sample_tokens(logits[i : i + 1], SamplingConfig(), keys[i : i + 1], steps[i : i + 1])) for i in range(8)
    ]
    assert together.tolist() == alone


def test_noise_is_uniform_and_its_streams_are_apart():
    u = uniform(torch.tensor(row_key(0, "p", 0, SAMPLING)), torch.arange(100_000))
    assert u.min() > 0 and u.max() < 1
    shares = torch.histc(u, 20, 0, 1) / len(u)
    assert torch.all((shares - 0.05).abs() < 5 * (0.05 * 0.95 / len(u)) ** 0.5)
    other = uniform(torch.tensor(row_key(0, "p", 0, EVICTION)), torch.arange(100_000))
    assert abs(torch.corrcoef(torch.stack([u, other]))[0, 1]) < 0.02
    keys = {row_key(s, p, k, stream) for s in (0, 1) for p in ("a", "b") for k in (0, 1) for stream in (1, 2)}
    assert len(keys) == 16
    assert abs(gumbel(torch.tensor(3), torch.arange(100_000)).mean() - 0.5772) < 0.02


def test_forced_rows_draw_as_others_do_and_take_their_own_tokens(monkeypatch):
    torch.manual_seed(2)
    logits, keys, steps = torch.randn(3, 40), torch.arange(3), torch.zeros(3, dtype=torch.int64)
    drawn = sample_tokens(logits, SamplingConfig(), keys, steps)
    drawn_for = []
    monkeypatch.setattr(sampling, "sample_tokens", lambda *a: drawn_for.append(len(a[0])) or sample_tokens(*a))
    forced = torch.tensor([8, NOT_FINITE, 9])
    assert next_tokens(logits, SamplingConfig(), forced, keys, steps).tolist() == [8, int(drawn[1]), 9]
    assert next_tokens(logits[::2], SamplingConfig(), forced[::2], keys[:2], steps[:2]).tolist() == [8, 9]
    assert next_tokens(logits, SamplingConfig(), None, keys, steps).tolist() == drawn.tolist()
    assert drawn_for == [3, 2, 3], "a step of forced rows leaves sampling out"
    # forced or not, no token comes from logits that are not finite
    logits[0, 3] = torch.nan
    assert next_tokens(logits, SamplingConfig(), forced, keys, steps).tolist() == [NOT_FINITE, int(drawn[1]), 9]


def test_replies_that_are_given_stand_beside_their_rows_however_those_move():
    batch = ActiveBatch(3, torch.device("cpu"))
    assert batch.forced() is None
    batch.admit(Row(Request("a", 0, (1,), (7, 8)), 0), 7)
    batch.admit(Row(Request("b", 0, (1,)), 0), 30)
    # longer than those before
    batch.admit(Row(Request("c", 0, (1,), (4, 5, 6)), 0), 4)
    assert batch.forced().tolist() == [8, NOT_FINITE, 5]
    batch.advance(torch.tensor([8, 31, 5]))
    batch.release(0)
    assert batch.forced().tolist() == [6, NOT_FINITE]
    batch.advance(torch.tensor([6, 32]))
    batch.release(0)
    # its place held a reply before, and it is further than that
    assert batch.forced() is None
    batch.admit(Row(Request("d", 0, (1,), (9, 3)), 0), 9)
    assert batch.forced().tolist() == [NOT_FINITE, 3]


@pytest.mark.parametrize("bad", [{"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"order": "x"}])
def test_ranges_are_checked(bad):
    with pytest.raises(KvreproError, match=f"{next(iter(bad.values()))}".replace(".", r"\.")):
        SamplingConfig(**bad)
