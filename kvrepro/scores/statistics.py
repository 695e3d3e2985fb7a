"""What a score and a difference are worth: intervals whose unit is the problem, paired tests, Holm, joint resampling.

Samples of one problem are correlated, so every function here takes one value per problem (its mean over samples, its
pass@k, its maj@k) or the [problems, samples] matrix, never a pooled list of replies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvrepro.checks import check_count, check_fraction, check_matrix, check_values, paired_values
from kvrepro.errors import KvreproError, UnknownNameError

INTERVAL_METHODS = ("wilson", "t", "bootstrap")
N_RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A score with its uncertainty; all values are fractions. `stderr` is None where n < 2 leaves it undefined."""

    estimate: float
    lo: float
    hi: float
    stderr: float | None
    n_problems: int
    confidence: float
    method: str


@dataclass(frozen=True)
class PairedDifference:
    """Mean of the paired differences a - b over the shared problems; `p_value` is two-sided."""

    difference: float
    lo: float
    hi: float
    stderr: float
    p_value: float
    n_problems: int
    confidence: float
    method: str


def clustered_stderr(values: Sequence[float]) -> float:
    """Standard error of the mean of per-problem values: sqrt(sum (p_i - p)^2 / (n (n - 1))).

    Source: the cluster-robust variance of a mean of equal clusters, with the n/(n-1) small-sample factor.
    """
    array = check_values(values, least=2)
    return float(array.std(ddof=1) / np.sqrt(array.size))


def interval(values: Sequence[float], confidence: float = 0.95, method: str = "wilson", *, seed: int = 0) -> Interval:
    """Confidence interval for the mean of per-problem values that lie in [0, 1].

    Args:
        values: one value per problem.
        method: `wilson` is the score interval with the clustered effective number of replies and the t quantile;
            `t` is mean +- t SE, cut at 0 and 1; `bootstrap` resamples problems (BCa, `N_RESAMPLES`, fixed seed).
    Deviates: the default is not the t interval, because that covers only 90-92 % at n = 30 problems and p = 0.9
        (see tests/test_statistics.py); the score form covers 93-97 % for p from 0.2 to 0.9.
    Where all values are equal the variance says nothing: the exact binomial bound with n problems is used instead, so
    that no interval has width zero.
    """
    array = check_values(values)
    check_fraction(confidence, "confidence")
    if method not in INTERVAL_METHODS:
        raise UnknownNameError("interval method", method, INTERVAL_METHODS)
    if array.min() < 0 or array.max() > 1:
        raise KvreproError(f"values from {array.min():g} to {array.max():g}; expected fractions between 0 and 1")
    mean, n = float(array.mean()), array.size
    stderr = clustered_stderr(array) if n > 1 else None
    if np.ptp(array) < 1e-12:
        lo, hi, method = *_exact_bounds(mean, n, confidence), "exact"
    elif method == "wilson":
        lo, hi = _score_bounds(mean, stderr, n, confidence)
    elif method == "t":
        half = _t_quantile(confidence, n - 1) * stderr
        lo, hi = max(0.0, mean - half), min(1.0, mean + half)
    else:
        lo, hi = _bootstrap_bounds(array, confidence, seed)
    return Interval(mean, float(lo), float(hi), stderr, n, confidence, method)


def _t_quantile(confidence: float, degrees: int) -> float:
    from scipy import stats

    return float(stats.t.ppf(0.5 + confidence / 2, degrees))


def _score_bounds(mean: float, stderr: float, n: int, confidence: float) -> tuple[float, float]:
    quantile = _t_quantile(confidence, n - 1)
    n_effective = mean * (1 - mean) / stderr**2
    shrink = 1 + quantile**2 / n_effective
    centre = (mean + quantile**2 / (2 * n_effective)) / shrink
    half = quantile * np.sqrt(mean * (1 - mean) / n_effective + quantile**2 / (4 * n_effective**2)) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


def _exact_bounds(mean: float, n: int, confidence: float) -> tuple[float, float]:
    """Clopper-Pearson bounds for `mean * n` right of n problems (a fraction of a problem is allowed)."""
    from scipy import stats

    tail = (1 - confidence) / 2
    right = mean * n
    lo = stats.beta.ppf(tail, right, n - right + 1) if right > 0 else 0.0
    hi = stats.beta.ppf(1 - tail, right + 1, n - right) if right < n else 1.0
    return float(lo), float(hi)


def _bootstrap_bounds(array: np.ndarray, confidence: float, seed: int) -> tuple[float, float]:
    from scipy import stats

    result = stats.bootstrap(
        (array,),
        np.mean,
        n_resamples=N_RESAMPLES,
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(seed),
        batch=1000,
    )
    return result.confidence_interval.low, result.confidence_interval.high


def two_stage_bootstrap(
    scores: Sequence[Sequence[float]],
    statistic: Callable[[np.ndarray], float] = np.mean,
    confidence: float = 0.95,
    *,
    n_resamples: int = 2000,
    seed: int = 0,
    within: bool = False,
) -> Interval:
    """Percentile bootstrap of any statistic of the [problems, samples] matrix; problems are drawn whole.

    Args:
        within: also redraw the samples inside each drawn problem (for small k).
    """
    matrix = check_matrix(scores)
    check_count(n_resamples, "n_resamples", 2)
    check_fraction(confidence, "confidence")
    generator = np.random.default_rng(seed)
    n, k = matrix.shape
    draws = np.empty(n_resamples)
    for i in range(n_resamples):
        drawn = matrix[generator.integers(n, size=n)]
        if within:
            drawn = np.take_along_axis(drawn, generator.integers(k, size=(n, k)), axis=1)
        draws[i] = statistic(drawn)
    tail = (1 - confidence) / 2
    lo, hi = np.quantile(draws, [tail, 1 - tail])
    return Interval(
        float(statistic(matrix)), float(lo), float(hi), float(draws.std(ddof=1)), n, confidence, "bootstrap"
    )


def paired_comparison(
    first: Mapping[Any, float] | Sequence[float],
    second: Mapping[Any, float] | Sequence[float],
    confidence: float = 0.95,
    *,
    method: str = "t",
    seed: int = 0,
) -> PairedDifference:
    """Difference of two cells on the same problems, with the noise they share taken out.

    Args:
        first, second: problem id -> value, or both as a list, tuple or array in the same order of problems. A value is
            a number or a boolean, or the list of the problem's samples, whose mean counts. Two pandas series are
            paired by their index, as mappings are.
        method: `t` (t interval and t test on the differences) or `permutation` (the p-value from 10,000 sign flips).
    Raises: KvreproError where the problems or their numbers differ, or a value is missing: an unpaired comparison must
        be asked for by selecting problems.
    """
    if method not in ("t", "permutation"):
        raise UnknownNameError("comparison method", method, ("t", "permutation"))
    check_fraction(confidence, "confidence")
    one, other = paired_values(first, second)
    differences = one - other
    mean, n = float(differences.mean()), differences.size
    stderr = clustered_stderr(differences)
    half = _t_quantile(confidence, n - 1) * stderr
    if np.ptp(differences) < 1e-12:
        # all differences equal: certain if they are not zero, and no evidence at all if they are
        p_value = 1.0 if abs(mean) < 1e-12 else 0.5 ** (n - 1)
    elif method == "t":
        from scipy import stats

        p_value = float(stats.ttest_1samp(differences, 0.0).pvalue)
    else:
        flips = np.random.default_rng(seed).choice((-1.0, 1.0), size=(N_RESAMPLES, n))
        extreme = np.abs((flips * differences).mean(axis=1)) >= abs(mean) - 1e-12
        p_value = float((extreme.sum() + 1) / (N_RESAMPLES + 1))
    return PairedDifference(mean, mean - half, mean + half, stderr, p_value, n, confidence, method)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm-adjusted p-values of a table of comparisons, in the order given."""
    if not isinstance(p_values, Mapping) or not p_values:
        raise KvreproError(f"p_values={p_values!r}; Holm needs a mapping of at least one comparison to its p-value")
    found = check_values(list(p_values.values()), name="p-values")
    if found.min() < 0 or found.max() > 1:
        raise KvreproError(f"p-values from {found.min():g} to {found.max():g}; expected fractions between 0 and 1")
    from statsmodels.stats.multitest import multipletests

    adjusted = multipletests(found, method="holm")[1]
    return {name: float(p) for name, p in zip(p_values, adjusted, strict=True)}


def mean_over_sets(
    sets: Mapping[str, Mapping[str, float]],
    same_problem: Mapping[tuple[str, str], str] | None = None,
    confidence: float = 0.95,
    *,
    n_resamples: int = 5000,
    seed: int = 0,
) -> Interval:
    """Unweighted mean of set means; problems that occur in several sets are drawn together.

    Args:
        sets: set name -> problem id -> value.
        same_problem: (set name, problem id) -> key shared by all copies of one problem; unnamed ones stand alone.
    A drawn problem brings all its copies, so the covariance of overlapping sets (gk23en and amc23) is kept. Sets with
    different problems are drawn apart, so each keeps its number of problems: problems are grouped by the sets that
    they occur in, and drawn within their group.
    """
    if not isinstance(sets, Mapping) or not sets or not all(isinstance(values, Mapping) for values in sets.values()):
        raise KvreproError("no sets given; expected set name -> problem id -> value")
    check_count(n_resamples, "n_resamples", 2)
    check_fraction(confidence, "confidence")
    known = same_problem or {}
    copies: dict[tuple[str, ...], dict[str, float]] = {}
    for name, values in sets.items():
        check_values(list(values.values()), name=f"values of {name}")
        for problem_id, value in values.items():
            key = known.get((name, problem_id))
            owner = ("shared", key) if key is not None else ("alone", name, problem_id)
            mine = copies.setdefault(owner, {})
            if name in mine:
                raise KvreproError(
                    f"same_problem says that two problems of {name} are {key!r}; expected one copy a set"
                )
            mine[name] = value
    names = list(sets)
    groups: dict[tuple[str, ...], list[list[float]]] = {}
    for values in copies.values():
        members = tuple(name for name in names if name in values)
        groups.setdefault(members, []).append([values[name] for name in members])
    generator = np.random.default_rng(seed)
    totals = np.zeros((n_resamples, len(names)))
    for members, rows in groups.items():
        matrix = np.array(rows)
        drawn = generator.integers(len(matrix), size=(n_resamples, len(matrix)))
        columns = [names.index(name) for name in members]
        totals[:, columns] += matrix[drawn].sum(axis=1)
    draws = (totals / np.array([len(sets[name]) for name in names])).mean(axis=1)
    tail = (1 - confidence) / 2
    lo, hi = np.quantile(draws, [tail, 1 - tail])
    estimate = float(np.mean([np.mean(list(values.values())) for values in sets.values()]))
    return Interval(estimate, float(lo), float(hi), float(draws.std(ddof=1)), len(copies), confidence, "bootstrap")
