"""What rounds of one measurement come to: a median with its interval, and which way a method goes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Any

from ..runs.throughput import ALONE, BUSY, FALLS, LEVEL, MIXED, RISES

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


def ends(tps: Mapping[tuple[str, int | None], Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Of each method how many times faster its smallest budget is than its largest, and which way it goes.

    A method with one budget is set against the full cache, which has no limit.

    Args:
        tps: by the method's label and budget, None for the full cache, one value per round.

    Returns:
        By label `smallest` and `largest`, budgets in tokens, the largest None for the full cache;
        `smallest_vs_largest` with `median`, `lo`, `hi`, None where nothing is to be compared; and `verdict`.
    """
    full = next((values for (_, budget), values in tps.items() if budget is None), None)
    found = {}
    for label in dict.fromkeys(label for label, budget in tps if budget is not None):
        budgets = sorted(budget for name, budget in tps if name == label and budget is not None)
        smallest, largest = budgets[0], budgets[-1] if len(budgets) > 1 else None
        base = full if largest is None else tps[label, largest]
        spread = None if base is None else Spread.of(ratios(tps[label, smallest], base))
        found[label] = {
            "smallest": smallest,
            "largest": largest,
            "smallest_vs_largest": spread and vars(spread),
            "verdict": verdict(spread),
        }
    return found


def panel_verdict(verdicts: Collection[str]) -> str:
    """Of a panel: `busy` if any of its methods is, else what all have in common, `mixed`, or `alone` without any."""
    if BUSY in verdicts:
        return BUSY
    return MIXED if len(set(verdicts)) > 1 else next(iter(verdicts), ALONE)


def verdict(ends: Spread | None) -> str:
    """Which way throughput goes from the smallest to the largest budget.

    `falls` or `rises` where the interval of the ends' ratio leaves 1 out, `level` where all of it lies within a factor
    of `LEVEL_FACTOR` of 1, `busy` where it is too wide to say: such a measurement orders nothing. `alone` without ends.
    """
    if ends is None:
        return ALONE
    if ends.lo > 1:
        return FALLS
    if ends.hi < 1:
        return RISES
    return LEVEL if ends.lo >= 1 / LEVEL_FACTOR and ends.hi <= LEVEL_FACTOR else BUSY
