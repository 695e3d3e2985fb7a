"""Intervals by definition and by simulated coverage, paired tests, Holm, joint resampling, power."""

from __future__ import annotations

import numpy as np
import pytest

from kvrepro import statistics
from kvrepro.errors import KvreproError, UnknownNameError
from kvrepro.power import PowerModel, assumed_model, estimated_model

N, K = 30, 5


def simulated(p, concentration, n_cells, seed):
    """Problem means of cells whose problems' chances are Beta distributed around p; None gives equal problems."""
    generator = np.random.default_rng(seed)
    if concentration is None:
        chances = np.full((n_cells, N), p)
    else:
        chances = generator.beta(p * concentration, (1 - p) * concentration, (n_cells, N))
    return generator.binomial(K, chances) / K


@pytest.mark.parametrize("concentration", [0.5, 2.0, None])
@pytest.mark.parametrize("p", [0.2, 0.5, 0.8, 0.9])
def test_intervals_cover_as_often_as_they_say(p, concentration):
    cells = simulated(p, concentration, 3000, seed=7)
    found = [statistics.interval(means) for means in cells]
    coverage = np.mean([entry.lo <= p <= entry.hi for entry in found])
    # 93-97 %, and three standard errors of 3000 simulated cells (0.4 points each)
    assert 0.93 - 0.012 <= coverage <= 0.97 + 0.012


@pytest.mark.parametrize("p", [0.2, 0.5, 0.8])
def test_the_naive_binomial_interval_fails(p):
    cells = simulated(p, 1.0, 3000, seed=8)
    means = cells.mean(axis=1)
    half = 1.96 * np.sqrt(means * (1 - means) / (N * K))
    assert np.mean(np.abs(means - p) <= half) < 0.8


def test_clustered_stderr_by_its_pairwise_definition():
    scores = np.random.default_rng(1).integers(0, 2, (12, 4))
    pooled = scores.mean()
    total = 0.0
    for row in scores:
        for a in row:
            for b in row:
                total += (a - pooled) * (b - pooled)
    n = len(scores)
    expected = np.sqrt(total * n / (n - 1)) / scores.size
    assert statistics.clustered_stderr(scores.mean(axis=1)) == pytest.approx(expected)


def test_t_interval_by_hand():
    values = [0.0, 0.5, 1.0, 0.5]
    stderr = np.sqrt(sum((v - 0.5) ** 2 for v in values) / (4 * 3))
    entry = statistics.interval(values, method="t")
    assert entry.stderr == pytest.approx(stderr)
    assert entry.hi == pytest.approx(0.5 + 3.182446 * stderr, abs=1e-6) or entry.hi == 1.0
    assert (entry.lo, entry.n_problems, entry.confidence, entry.method) == (pytest.approx(1 - entry.hi), 4, 0.95, "t")


def test_bootstrap_is_near_the_t_interval_and_repeatable():
    values = np.random.default_rng(3).beta(1, 1, 40)
    t, bootstrap = statistics.interval(values, method="t"), statistics.interval(values, method="bootstrap")
    assert abs(t.lo - bootstrap.lo) < 0.03
    assert abs(t.hi - bootstrap.hi) < 0.03
    assert bootstrap == statistics.interval(values, method="bootstrap")


def test_two_stage_bootstrap_keeps_the_samples_of_a_problem_together():
    scores = np.repeat(np.random.default_rng(5).integers(0, 2, (40, 1)), 5, axis=1)
    whole = statistics.two_stage_bootstrap(scores)
    assert whole.stderr == pytest.approx(statistics.clustered_stderr(scores.mean(axis=1)), rel=0.1)
    assert statistics.two_stage_bootstrap(scores, within=True).stderr == pytest.approx(whole.stderr, rel=0.1)


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [0.4] * 30])
def test_no_interval_has_width_zero(values):
    entry = statistics.interval(values)
    assert entry.lo < entry.estimate < entry.hi or entry.estimate in (entry.lo, entry.hi)
    assert entry.hi - entry.lo > 0.1
    assert entry.method == "exact"


def test_paired_comparison_takes_the_shared_noise_out():
    generator = np.random.default_rng(11)
    chance = generator.beta(0.5, 0.5, 30)
    first = {f"p{i}": c for i, c in enumerate(np.clip(chance, 0.05, 1))}
    second = {name: value - 0.03 + 0.02 * generator.standard_normal() for name, value in first.items()}
    paired = statistics.paired_comparison(first, second)
    assert paired.lo > 0
    assert paired.p_value < 0.001
    unpaired = np.hypot(
        statistics.clustered_stderr(list(first.values())), statistics.clustered_stderr(list(second.values()))
    )
    assert paired.stderr < 0.1 * unpaired
    permuted = statistics.paired_comparison(first, second, method="permutation")
    assert permuted.p_value < 0.001
    swapped = statistics.paired_comparison(second, first)
    assert swapped.difference == pytest.approx(-paired.difference)


def test_paired_comparison_by_hand_and_without_difference():
    first, second = {"a": 1.0, "b": 0.5, "c": 0.0}, {"a": 0.5, "b": 0.5, "c": 0.25}
    differences = np.array([0.5, 0.0, -0.25])
    entry = statistics.paired_comparison(first, second)
    assert entry.difference == pytest.approx(differences.mean())
    assert entry.stderr == pytest.approx(differences.std(ddof=1) / np.sqrt(3))
    assert statistics.paired_comparison(first, first).p_value == 1.0


def test_comparison_of_different_problems_is_an_error():
    with pytest.raises(KvreproError, match="same problems"):
        statistics.paired_comparison({"a": 1.0, "b": 0.0}, {"a": 1.0, "c": 0.0})


def test_holm_by_hand():
    adjusted = statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})


def test_shared_problems_are_drawn_together():
    generator = np.random.default_rng(2)
    values = {f"{i}": float(v) for i, v in enumerate(generator.integers(0, 2, 40))}
    sets = {"amc23": values, "gk23en": dict(values)}
    shared = {(name, i): i for name in sets for i in values}
    together = statistics.mean_over_sets(sets, shared)
    apart = statistics.mean_over_sets(sets)
    single = statistics.clustered_stderr(list(values.values()))
    # two copies of one set say no more than one of them; drawn apart they pretend to
    assert together.stderr == pytest.approx(single, rel=0.06)
    assert apart.stderr == pytest.approx(single / np.sqrt(2), rel=0.06)
    assert together.estimate == apart.estimate == pytest.approx(np.mean(list(values.values())))
    assert (together.n_problems, apart.n_problems) == (40, 80)


@pytest.mark.parametrize(
    ("values", "arguments", "error"),
    [
        ([], {}, KvreproError), ([0.5, float("nan")], {}, KvreproError), ([0.5, 2.0], {}, KvreproError),
        ([0.5, 0.1], {"confidence": 95}, KvreproError), ([0.5, 0.1], {"method": "normal"}, UnknownNameError),
    ],
)  # fmt: skip
def test_intervals_of_nonsense_are_errors(values, arguments, error):
    with pytest.raises(error):
        statistics.interval(values, **arguments)


def test_power_by_simulation():
    generator = np.random.default_rng(4)
    n, k, difference, rounds = 60, 8, 0.08, 2500
    chances = generator.uniform(0.1, 0.8, (rounds, n))
    shift = difference + 0.1 * generator.choice((-1.0, 1.0), (rounds, n))
    other = np.clip(chances + shift, 0, 1)
    first, second = generator.binomial(k, chances) / k, generator.binomial(k, other) / k
    d = second - first
    t = d.mean(axis=1) / (d.std(axis=1, ddof=1) / np.sqrt(n))
    found = np.mean(np.abs(t) > 2.001)
    model = PowerModel(
        between=float((other - chances).var(axis=1).mean()),
        within=float((chances * (1 - chances) + other * (1 - other)).mean()),
    )
    assert model.power(float((other - chances).mean()), n, k) == pytest.approx(found, abs=0.03)


def test_what_is_needed_is_enough_and_no_more():
    model = assumed_model(0.5)
    n = model.problems_needed(0.05, 5)
    assert model.power(0.05, n, 5) >= 0.8 > model.power(0.05, n - 1, 5)
    k = model.samples_needed(0.05, 500)
    assert model.power(0.05, 500, k) >= 0.8
    assert k == 1 or model.power(0.05, 500, k - 1) < 0.8
    # more samples cannot make up for too few problems
    assert model.samples_needed(0.026, 30) is None
    assert model.power(model.detectable(30, 5), 30, 5) == pytest.approx(0.8, abs=1e-6)


def test_power_model_from_data_and_bad_input():
    generator = np.random.default_rng(6)
    chances = generator.beta(1, 1, (400, 1))
    a, b = (generator.random((400, 16)) < chances for _ in range(2))
    model = estimated_model(a, b)
    assert model.between < 0.005
    assert model.within == pytest.approx(2 * float((chances * (1 - chances)).mean()), rel=0.1)
    with pytest.raises(KvreproError, match="same problems"):
        estimated_model(a, b[:10])
    with pytest.raises(KvreproError, match="spread"):
        assumed_model(0.95, spread=0.35)
    with pytest.raises(KvreproError, match="difference"):
        model.power(2.6, 30, 5)
