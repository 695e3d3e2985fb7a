"""What rounds of one measurement come to: a median with its interval, and which way a panel goes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, geometric_mean, median, stdev

from ..runs.throughput import BUSY, FALLS, LEVEL, RISES

CONFIDENCE = 0.95
# an interval within this factor of 1 leaves no room for a difference that matters
LEVEL_FACTOR = 1.05


@dataclass(frozen=True)
class Spread:
    """The median of some rounds and its 95 % interval."""

    median: float
    lo: float
    hi: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """From one positive value per round, at least two.

        Student's t on the logarithms: order statistics of five rounds reach 94 % at most and a bootstrap of five values
        is too narrow, while noise of a clock multiplies. One round that was disturbed widens it, which is the side to
        err on. It is stretched to the median where that lies outside, which takes seven rounds.
        """
        from scipy.stats import t

        logs = [math.log(value) for value in values]
        half = t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
        middle, mean = median(values), fmean(logs)
        return cls(middle, min(middle, math.exp(mean - half)), max(middle, math.exp(mean + half)))


def ratios(own: Sequence[float], base: Sequence[float]) -> list[float]:
    """Ratios within rounds, from which the machine's slow moments have gone."""
    return [a / b for a, b in zip(own, base, strict=True)]


def end_ratios(tps: Mapping[tuple[str, int | None], Sequence[float]]) -> list[float] | None:
    """Per round how many times faster the smallest budget is than the largest; None without a budget.

    Of several methods the geometric mean. A method with one budget is set against the full cache, which has no limit.

    Args:
        tps: by method and budget, None for the full cache, one value per round.
    """
    full = next((values for (_, budget), values in tps.items() if budget is None), None)
    by_method = []
    for method in dict.fromkeys(method for method, budget in tps if budget is not None):
        budgets = sorted(budget for name, budget in tps if name == method and budget is not None)
        largest = tps[method, budgets[-1]] if len(budgets) > 1 else full
        if largest is not None:
            by_method.append(ratios(tps[method, budgets[0]], largest))
    return [geometric_mean(values) for values in zip(*by_method, strict=True)] or None


def verdict(ends: Spread) -> str:
    """Which way throughput goes from the smallest to the largest budget.

    `falls` or `rises` where the interval of the ends' ratio leaves 1 out, `level` where all of it lies within a factor
    of `LEVEL_FACTOR` of 1, `busy` where it is too wide to say: such a measurement orders nothing.
    """
    if ends.lo > 1:
        return FALLS
    if ends.hi < 1:
        return RISES
    return LEVEL if ends.lo >= 1 / LEVEL_FACTOR and ends.hi <= LEVEL_FACTOR else BUSY
