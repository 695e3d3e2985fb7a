"""What a score and a difference are worth: intervals whose unit is the problem, paired tests, Holm, joint resampling.

Samples of one problem are correlated, so every function here takes one value per problem (its mean over samples, its
pass@k, its maj@k), never a pooled list of replies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import KvreproError, check_known
from .values import check_fraction, check_values, paired_values

INTERVAL_METHODS = ("wilson", "t")
COMPARISON_METHODS = ("t", "permutation")
SIGN_FLIPS, RESAMPLES, SET_RESAMPLES = 10_000, 2000, 5000
# below this the values of all problems are the same, apart from rounding
_NO_SPREAD = 1e-12


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
    """Mean of the paired differences a - b over the shared problems; `p_value` is two-sided.

    `n_differing` problems differ at all: with fewer than six no signs of theirs are as rare as 1 in 20.
    """

    difference: float
    lo: float
    hi: float
    stderr: float
    p_value: float
    n_problems: int
    confidence: float
    method: str
    n_differing: int

    @property
    def points(self) -> tuple[float, float, float]:
        """Difference and interval of values in [0, 1] in points, cut where a t interval passes what can be."""
        difference, lo, hi = (100 * max(-1.0, min(1.0, value)) for value in (self.difference, self.lo, self.hi))
        return difference, lo, hi


def clustered_stderr(values: Sequence[float]) -> float:
    """Standard error of the mean of per-problem values: sqrt(sum (p_i - p)^2 / (n (n - 1))).

    Source: the cluster-robust variance of a mean of equal clusters, with the n/(n-1) small-sample factor.
    """
    array = check_values(values, least=2)
    return float(array.std(ddof=1) / np.sqrt(array.size))


def interval(values: Sequence[float], confidence: float = 0.95, method: str = "wilson") -> Interval:
    """Confidence interval for the mean of per-problem values that lie in [0, 1].

    Args:
        values: one value per problem.
        method: `wilson` is the score interval with the clustered effective number of replies and the t quantile;
            `t` is mean +- t SE, cut at 0 and 1.
    Deviates: the default is not the t interval, because that covers only 90-92 % at n = 30 problems and p = 0.9
        (see tests/scores/test_statistics.py); the score form covers 93-97 % for p from 0.2 to 0.9.
    Where all values are equal the variance says nothing: the exact binomial bound with n problems is used instead, so
    that no interval has width zero.
    """
    from scipy import special
    from statsmodels.stats.proportion import proportion_confint

    array = check_values(values)
    check_fraction(confidence, "confidence")
    check_known("interval method", INTERVAL_METHODS, method)
    if array.min() < 0 or array.max() > 1:
        raise KvreproError(f"values from {array.min():g} to {array.max():g}; expected fractions between 0 and 1")
    mean, n = float(array.mean()), array.size
    stderr = clustered_stderr(array) if n > 1 else None
    if np.ptp(array) < _NO_SPREAD:
        lo, hi = proportion_confint(mean * n, n, 1 - confidence, method="beta")
        return Interval(mean, float(lo), float(hi), stderr, n, confidence, "exact")
    quantile, centre = special.stdtrit(n - 1, 0.5 + confidence / 2), mean
    if method == "wilson":
        # Wilson's score interval with n = p (1 - p) / SE^2 and a t quantile, where statsmodels' takes a normal one
        n_effective = mean * (1 - mean) / stderr**2
        shrink = 1 + quantile**2 / n_effective
        centre = (mean + quantile**2 / (2 * n_effective)) / shrink
        half = quantile * np.sqrt(mean * (1 - mean) / n_effective + quantile**2 / (4 * n_effective**2)) / shrink
    else:
        half = quantile * stderr
    return Interval(mean, float(max(0.0, centre - half)), float(min(1.0, centre + half)), stderr, n, confidence, method)


def bootstrap_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Percentile bootstrap for the mean of per-problem values of any size, such as nats; problems are drawn whole."""
    array = check_values(values, least=2)
    check_fraction(confidence, "confidence")
    drawn = np.random.default_rng(0).integers(array.size, size=(RESAMPLES, array.size))
    return _percentiles(float(array.mean()), array[drawn].mean(axis=1), array.size, confidence)


def _percentiles(estimate: float, draws: np.ndarray, n_problems: int, confidence: float) -> Interval:
    lo, hi = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(lo), float(hi), float(draws.std(ddof=1)), n_problems, confidence, "bootstrap")


def paired_comparison(
    first: Mapping[Any, float] | Sequence[float],
    second: Mapping[Any, float] | Sequence[float],
    confidence: float = 0.95,
    *,
    method: str = "t",
) -> PairedDifference:
    """Difference of two cells on the same problems, with the noise they share taken out.

    Args:
        first, second: problem id -> value, or both as a list, tuple or array in the same order of problems. A value is
            a number or a boolean, or the list of the problem's samples, whose mean counts. Two pandas series are
            paired by their index, as mappings are.
        method: `t` (t interval and t test on the differences) or `permutation` (the p-value from 10,000 sign flips).

    Where all differences are equal their spread says nothing. p is then 1 if they are zero, else that of all signs
    alike, 0.5^(n - 1). The interval is the widest mean that n such problems allow: with this confidence at most a share
    `1 - ((1 - confidence) / 2)^(1 / n)` of all problems differs otherwise (exact binomial bound), by up to the whole
    range of a fraction. Values that are no fractions have no range, and the interval is infinite.

    Raises: KvreproError where the problems or their numbers differ, or a value is missing: an unpaired comparison must
        be asked for by selecting problems.
    """
    from scipy import stats

    check_known("comparison method", COMPARISON_METHODS, method)
    check_fraction(confidence, "confidence")
    one, other = paired_values(first, second)
    differences = one - other
    mean, n = float(differences.mean()), differences.size
    n_differing = int(np.count_nonzero(np.abs(differences) > _NO_SPREAD))
    stderr = clustered_stderr(differences)
    if np.ptp(differences) < _NO_SPREAD:
        otherwise = 1 - ((1 - confidence) / 2) ** (1 / n)
        reach = 1.0 if min(one.min(), other.min()) >= 0 and max(one.max(), other.max()) <= 1 else np.inf
        lo, hi = mean - otherwise * (reach + mean), mean + otherwise * (reach - mean)
        p_value = 1.0 if abs(mean) < _NO_SPREAD else 0.5 ** (n - 1)
    else:
        test = stats.ttest_1samp(differences, 0.0)
        lo, hi = test.confidence_interval(confidence)
        p_value = test.pvalue if method == "t" else _sign_flip_p(differences)
    return PairedDifference(mean, float(lo), float(hi), stderr, float(p_value), n, confidence, method, n_differing)


def _sign_flip_p(differences: np.ndarray) -> float:
    """Share of random sign flips whose mean is as extreme; the observed signs count as one of them."""
    flips = np.random.default_rng(0).choice((-1.0, 1.0), size=(SIGN_FLIPS, differences.size))
    extreme = np.abs((flips * differences).mean(axis=1)) >= abs(differences.mean()) - 1e-12
    return (extreme.sum() + 1) / (SIGN_FLIPS + 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm-adjusted p-values of a table of comparisons, in the order given."""
    from statsmodels.stats.multitest import multipletests

    if not isinstance(p_values, Mapping) or not p_values:
        raise KvreproError(f"p_values={p_values!r}; Holm needs a mapping of at least one comparison to its p-value")
    found = check_values(list(p_values.values()), name="p-values")
    if found.min() < 0 or found.max() > 1:
        raise KvreproError(f"p-values from {found.min():g} to {found.max():g}; expected fractions between 0 and 1")
    return dict(zip(p_values, multipletests(found, method="holm")[1].tolist(), strict=True))


def mean_over_sets(
    sets: Mapping[str, Mapping[str, float]],
    same_problem: Mapping[tuple[str, str], str] | None = None,
    confidence: float = 0.95,
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
    check_fraction(confidence, "confidence")
    copies = _copies(sets, same_problem or {})
    groups: dict[tuple[str, ...], list[list[float]]] = {}
    for values in copies:
        groups.setdefault(tuple(values), []).append(list(values.values()))
    generator = np.random.default_rng(0)
    draws = np.zeros(SET_RESAMPLES)
    for members, rows in groups.items():
        # what a problem adds to the mean of set means: its value in each of its sets over the size of that set
        weights = [len(sets) * len(sets[name]) for name in members]
        shares = (np.array(rows) / weights).sum(axis=1)
        draws += shares[generator.integers(len(rows), size=(SET_RESAMPLES, len(rows)))].sum(axis=1)
    estimate = float(np.mean([np.mean(list(values.values())) for values in sets.values()]))
    return _percentiles(estimate, draws, len(copies), confidence)


def _copies(
    sets: Mapping[str, Mapping[str, float]], same_problem: Mapping[tuple[str, str], str]
) -> list[dict[str, float]]:
    """Per problem its values by set, sets in the order given."""
    copies: dict[Any, dict[str, float]] = {}
    for name, values in sets.items():
        check_values(list(values.values()), name=f"values of {name}")
        for problem_id, value in values.items():
            key = same_problem.get((name, problem_id), (name, problem_id))
            mine = copies.setdefault(key, {})
            if name in mine:
                raise KvreproError(
                    f"same_problem says that two problems of {name} are {key!r}; expected one copy a set"
                )
            mine[name] = value
    return list(copies.values())
