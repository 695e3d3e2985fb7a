"""Intervals by definition and by simulated coverage, paired tests, Holm, joint resampling."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kvrepro.errors import KvreproError, UnknownNameError
from kvrepro.scores import statistics

N, K = 30, 5
NAN = float("nan")


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
    t, bootstrap = statistics.interval(values, method="t"), statistics.bootstrap_interval(values)
    assert (bootstrap.lo, bootstrap.hi) == pytest.approx((t.lo, t.hi), abs=0.03)
    assert bootstrap.stderr == pytest.approx(statistics.clustered_stderr(values), rel=0.1)
    assert bootstrap == statistics.bootstrap_interval(values)
    # values of any size, such as nats
    assert statistics.bootstrap_interval(100 * values).lo == pytest.approx(100 * bootstrap.lo)


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


def forms(values):
    """One cell's values per problem in every form that a caller may hold them."""
    return {
        "list": values.tolist(),
        "tuple": tuple(values.tolist()),
        "array": values,
        "series": pd.Series(values),
        "mapping": {f"p{i:03d}": value for i, value in enumerate(values.tolist())},
        "samples": [[value, value] for value in values.tolist()],
        "matrix": np.stack([values, values], axis=1),
    }


@pytest.mark.parametrize("dtype", [bool, int, float])
@pytest.mark.parametrize("n", [2, 7, 40])
def test_paired_comparison_agrees_with_scipy_in_every_form(dtype, n):
    generator = np.random.default_rng(n)
    first, second = generator.random((2, n)) if dtype is float else generator.integers(0, 2, (2, n)).astype(dtype)
    # no two differences alike for both sides
    first[:2], second[:2] = [1, 0], [0, 0]
    expected = stats.ttest_rel(first.astype(float), second.astype(float))
    bounds = expected.confidence_interval(0.95)
    for name, one in forms(first).items():
        found = statistics.paired_comparison(one, forms(second)[name])
        assert found.p_value == pytest.approx(expected.pvalue), name
        assert (found.lo, found.hi) == pytest.approx((bounds.low, bounds.high)), name
        assert found.difference == pytest.approx(np.mean(first.astype(float) - second)), name
        assert found.n_problems == n, name


def test_booleans_are_values_and_no_indices():
    found = statistics.paired_comparison([True] * 50 + [False] * 50, [False] * 50 + [True] * 50)
    assert (found.difference, found.p_value) == (0.0, 1.0)


def test_permutation_agrees_with_scipy():
    first, second = np.random.default_rng(9).random((2, 10))
    exact = stats.permutation_test((first, second), lambda a, b: np.mean(a - b), permutation_type="samples")
    found = statistics.paired_comparison(list(first), list(second), method="permutation")
    # four standard errors of 10,000 sign flips; scipy enumerates all 1,024
    assert found.p_value == pytest.approx(exact.pvalue, abs=4 * np.sqrt(0.25 / 10_000))


def test_series_are_paired_by_their_index_and_mappings_by_their_keys():
    first, second = np.random.default_rng(3).random((2, 12))
    names = [f"p{i}" for i in range(12)]
    one, other = pd.Series(first, names), pd.Series(second, names)
    expected = statistics.paired_comparison(first, second)
    assert statistics.paired_comparison(one, other[::-1]) == statistics.paired_comparison(one, other)
    assert statistics.paired_comparison(one, other[::-1]).p_value == pytest.approx(expected.p_value)
    assert statistics.paired_comparison(dict(one), other[::-1].to_dict()).p_value == pytest.approx(expected.p_value)
    with pytest.raises(KvreproError, match="same problems"):
        statistics.paired_comparison(one, other.rename({"p3": "q3"}))
    with pytest.raises(KvreproError, match="twice in its index"):
        statistics.paired_comparison(one, other.rename({"p3": "p4"}))


def test_equal_differences_are_as_certain_as_their_number_allows():
    # 0.3 - 0.2 and 0.4 - 0.3 differ in their last bit, which is no noise
    found = statistics.paired_comparison([0.3, 0.4, 0.9, 1.0], [0.2, 0.3, 0.8, 0.9])
    assert found.p_value == 0.125
    # with 97.5 % confidence at most a share s of all problems is not like these four: (1 - s)^4 = 0.025
    share = 1 - 0.025**0.25
    assert (found.lo, found.hi) == pytest.approx((0.1 * (1 - share) - share, 0.1 * (1 - share) + share))


def test_equal_cells_have_an_interval_that_shrinks_with_their_number():
    widths = []
    for n in (2, 30, 1000):
        found = statistics.paired_comparison([1.0] * n, [1.0] * n)
        assert found.lo == -found.hi < 0
        widths.append(found.hi)
    assert widths == pytest.approx([0.8419, 0.1157, 0.0037], abs=1e-4)
    # everything won: the difference cannot be more than it is
    certain = statistics.paired_comparison([1] * 30, [0] * 30)
    assert (certain.lo, certain.hi) == pytest.approx((1 - 2 * widths[1], 1.0))


def test_equal_differences_of_what_is_no_fraction_have_no_bound():
    found = statistics.paired_comparison([300, 500], [200, 400])
    assert (found.difference, found.lo, found.hi) == (100.0, -np.inf, np.inf)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1, 0, 1], [1, 0], "3 problems and second 2"),
        ([], [], "at least 2"),
        ([1], [0], "at least 2"),
        ([1, float("nan")], [0, 1], "first are not finite"),
        ([1, 0], [None, 1], "second"),
        (["1", "0"], ["0", "0"], "numbers or booleans"),
        ([1, "0"], [0, 0], "numbers or booleans"),
        ({"a": 1, "b": 0}, [1, 0], "one side names its problems"),
        ("10", "01", "numbers or booleans"),
        ([[1, 0], []], [[1], [0]], "not finite"),
        (1, 0, "expected one value per problem"),
        (np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), "expected one value per problem"),
        ({"a": 1, "b": None}, {"a": 1, "b": 0}, "first"),
        ([1, 0j], [0, 1], "numbers or booleans"),
        (pd.Series([1, None, 1], dtype="Int64"), pd.Series([1, 0, 1]), "first"),
    ],
)
def test_what_cannot_be_paired_is_named(first, second, message):
    with pytest.raises(KvreproError, match=message):
        statistics.paired_comparison(first, second)


@pytest.mark.parametrize(
    "values",
    [
        [True, False, True],
        [1, 0, 1],
        np.array([1, 0, 1], dtype=np.int8),
        (1.0, 0.0, 1.0),
        pd.Series([1, 0, 1]),
        [Fraction(1), Fraction(0), Fraction(1)],
        [np.float32(1), np.bool_(False), 1],
    ],
)
def test_every_number_is_a_value(values):
    assert statistics.interval(values) == statistics.interval([1.0, 0.0, 1.0])
    assert statistics.clustered_stderr(values) == statistics.clustered_stderr([1.0, 0.0, 1.0])


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (statistics.interval, (["0.5", "1"],), "numbers"),
        (statistics.interval, ({"a": 1},), "mapping"),
        (statistics.interval, ([0.5, 1], "0.95"), "confidence"),
        (statistics.interval, ([0.5, 1], True), "confidence"),
        (statistics.interval, ([[0.5], [1, 0]],), "values"),
        (statistics.clustered_stderr, ([1],), "at least 2"),
        (statistics.bootstrap_interval, ([1, NAN],), "not finite"),
        (statistics.bootstrap_interval, ([1],), "at least 2"),
        (statistics.holm, ([0.1, 0.2],), "mapping"),
        (statistics.holm, ({"a": 1.5},), "from 1.5"),
        (statistics.holm, ({},), "at least one"),
        (statistics.mean_over_sets, ({"a": [1, 0]},), "set name"),
        (statistics.mean_over_sets, ({"a": {"x": 1}}, {}, 95), "confidence"),
        (statistics.mean_over_sets, ({"a": {"x": 1, "y": 0}}, {("a", "x"): "k", ("a", "y"): "k"}), "one copy a set"),
    ],
)
def test_input_that_is_no_data_is_named(function, arguments, message):
    with pytest.raises(KvreproError, match=message):
        function(*arguments)


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
        *(([], {}, KvreproError), ([0.5, NAN], {}, KvreproError), ([0.5, 2.0], {}, KvreproError)),
        ([0.5, 0.1], {"confidence": 95}, KvreproError),
        ([0.5, 0.1], {"method": "normal"}, UnknownNameError),
    ],
)
def test_intervals_of_nonsense_are_errors(values, arguments, error):
    with pytest.raises(error):
        statistics.interval(values, **arguments)
