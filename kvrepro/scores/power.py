"""How many samples or problems a difference needs: the variance of a mean split into problems and samples."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import KvreproError
from .statistics import interval
from .values import check_count, check_fraction, check_matrix

MAX_SAMPLES = 1024
MAX_PROBLEMS = 10_000_000


@dataclass(frozen=True)
class PowerModel:
    """Variance of the paired difference of two cells' pass@1: `between / n + within / (n k)`.

    Source: docs/benchmarks.md#power.

    Args:
        between: variance over problems of the true difference of the two methods' chances.
        within: mean over problems of p_a (1 - p_a) + p_b (1 - p_b), the variance of one sample's difference.
    """

    between: float
    within: float

    def __post_init__(self) -> None:
        if not (0 <= self.between < np.inf and 0 <= self.within < np.inf):
            raise KvreproError(f"between={self.between}, within={self.within}; expected variances, finite and >= 0")

    def stderr(self, n_problems: int, n_samples: int) -> float:
        """Standard error of the mean difference."""
        check_count(n_problems, "n_problems", 2)
        check_count(n_samples, "n_samples")
        return float(np.sqrt(self.between / n_problems + self.within / (n_problems * n_samples)))

    def power(self, difference: float, n_problems: int, n_samples: int, alpha: float = 0.05) -> float:
        """Chance that a two-sided paired t test at level `alpha` finds a true `difference` (a fraction)."""
        _check(difference, alpha=alpha)
        stderr = self.stderr(n_problems, n_samples)
        # without noise every difference shows
        return 1.0 if stderr == 0 else _chance(abs(difference) / stderr, n_problems, alpha)

    def detectable(self, n_problems: int, n_samples: int, power: float = 0.8, alpha: float = 0.05) -> float:
        """Smallest difference that is found with chance `power`."""
        from scipy import optimize

        _check(power=power, alpha=alpha)
        if power <= alpha:
            raise KvreproError(f"power={power}, alpha={alpha}; expected a power above alpha, which chance alone gives")
        stderr, highest = self.stderr(n_problems, n_samples), 1.0
        while _chance(highest, n_problems, alpha) < power:
            highest *= 2
        return stderr * float(optimize.brentq(lambda z: _chance(z, n_problems, alpha) - power, 1e-3, highest))

    def samples_needed(self, difference: float, n_problems: int, power: float = 0.8, alpha: float = 0.05) -> int | None:
        """Fewest samples per problem; None if no number up to `MAX_SAMPLES` is enough with these problems."""
        _check(power=power)
        return _fewest(1, MAX_SAMPLES, lambda k: self.power(difference, n_problems, k, alpha) >= power)

    def problems_needed(self, difference: float, n_samples: int, power: float = 0.8, alpha: float = 0.05) -> int:
        """Fewest problems with `n_samples` each."""
        _check(power=power)
        found = _fewest(2, MAX_PROBLEMS, lambda n: self.power(difference, n, n_samples, alpha) >= power)
        if found is None:
            raise KvreproError(f"a difference of {difference:g} needs more than {MAX_PROBLEMS:,} problems")
        return found


def _fewest(least: int, most: int, is_enough: Callable[[int], bool]) -> int | None:
    """The smallest number that is enough; None if `most` is not."""
    found = least + bisect_left(range(least, most + 1), True, key=is_enough)
    return None if found > most else found


def _chance(shift: float, n_problems: int, alpha: float) -> float:
    """Chance that |t| passes its critical value where the true difference is `shift` standard errors."""
    from scipy import stats

    cut = stats.t.ppf(1 - alpha / 2, n_problems - 1)
    # scipy gives nan for a lower tail that is too small for a float
    lower = np.nan_to_num(stats.nct.cdf(-cut, n_problems - 1, shift))
    return float(stats.nct.sf(cut, n_problems - 1, shift) + lower)


def _check(difference: float = 1.0, power: float = 0.8, alpha: float = 0.05) -> None:
    if not 0 < abs(difference) <= 1:
        raise KvreproError(f"difference={difference}; expected a fraction above 0 and up to 1 (2.6 points are 0.026)")
    check_fraction(power, "power")
    check_fraction(alpha, "alpha")


def assumed_model(score: float, spread: float = 0.35, agreement: float = 0.9) -> PowerModel:
    """Model for two methods that score about `score`, from assumptions instead of data.

    Args:
        spread: standard deviation over problems of the chance to be right (0.3-0.4 on AIME: most problems are
            nearly always or nearly never solved).
        agreement: correlation over problems of the two methods' chances.
    """
    variance = spread**2
    is_possible = 0 < score < 1 and spread >= 0 and variance <= score * (1 - score)
    if not (is_possible and -1 <= agreement <= 1):
        raise KvreproError(
            f"score={score}, spread={spread}, agreement={agreement}; expected 0 < score < 1, "
            f"spread <= {np.sqrt(max(0.0, score * (1 - score))):.3f} at this score, agreement from -1 to 1"
        )
    return PowerModel(between=2 * variance * (1 - agreement), within=max(0.0, 2 * (score * (1 - score) - variance)))


def estimated_model(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> PowerModel:
    """Model from two cells' [problems, samples] verdicts on the same problems in the same order."""
    a, b = check_matrix(first, "verdicts"), check_matrix(second, "verdicts")
    if a.shape[0] != b.shape[0] or min(a.shape[1], b.shape[1]) < 2:
        raise KvreproError(
            f"verdicts of shape {a.shape} and {b.shape}; expected the same problems and at least two samples"
        )
    within = float(a.var(axis=1, ddof=1).mean() + b.var(axis=1, ddof=1).mean())
    noise = float(a.var(axis=1, ddof=1).mean() / a.shape[1] + b.var(axis=1, ddof=1).mean() / b.shape[1])
    total = float((a.mean(axis=1) - b.mean(axis=1)).var(ddof=1))
    return PowerModel(between=max(0.0, total - noise), within=within)


def simulated_coverage(
    chance: float, n_problems: int = 30, n_samples: int = 5, *, n_cells: int = 2000, seed: int = 0
) -> dict[str, float]:
    """How often 95 % intervals of simulated cells hold the true score: ours, the t interval, the naive binomial one.

    Problems' chances are Beta(chance, 1 - chance): most are near 0 or 1, as on AIME.

    Args:
        chance: true pass@1.
    """
    check_fraction(chance, "chance")
    check_count(n_problems, "n_problems", 2)
    check_count(n_samples, "n_samples")
    check_count(n_cells, "n_cells")
    generator = np.random.default_rng(seed)
    chances = generator.beta(chance, 1 - chance, (n_cells, n_problems))
    cells = generator.binomial(n_samples, chances) / n_samples
    covered = {
        method: float(np.mean([i.lo <= chance <= i.hi for i in (interval(c, method=method) for c in cells)]))
        for method in ("wilson", "t")
    }
    means = cells.mean(axis=1)
    half = 1.96 * np.sqrt(means * (1 - means) / (n_problems * n_samples))
    covered["naive"] = float(np.mean(np.abs(means - chance) <= half))
    return covered
