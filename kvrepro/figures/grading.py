"""Figures of `grading.ipynb`: what a grader does to a score, and what an interval is worth."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from .theme import BEST, FULL, LINE, finish, spread

_GRADERS = {"strict": BEST, "compat": LINE}
# ours first, the one that promises too much last
_INTERVALS = ((BEST, "o-"), (FULL, "s--"), (LINE, "^:"))


def graders_by_kind(scores: pd.DataFrame, *, ax: Axes) -> Axes:
    """Scores of the same replies under both graders, by kind of answer, with 95 % intervals.

    Args:
        scores: of `grader_review.grader_scores`.
    """
    kinds = list(dict.fromkeys(scores.kind))
    for shift, (grader, colour) in zip((-0.1, 0.1), _GRADERS.items(), strict=True):
        part = scores[scores.grader == grader]
        places = [kinds.index(kind) + shift for kind in part.kind]
        ends = spread(part, "pass_at_1", "pass_at_1_lo", "pass_at_1_hi")
        ax.errorbar(places, part.pass_at_1, ends, fmt="o", capsize=3, color=colour, label=grader)
    return finish(ax, "beside", xticks=range(len(kinds)), xticklabels=kinds, ylim=(0, 100), ylabel="graded right (%)")


def interval_coverage(coverage: pd.DataFrame, *, ax: Axes) -> Axes:
    """Percent of simulated cells that an interval covers, by the true score; what 95 % may mean is shaded.

    Args:
        coverage: by true Pass@1, a column of fractions per kind of interval.
    """
    ax.axhspan(93, 97, color="0.9", label="93 to 97 %")
    for (colour, style), (name, values) in zip(_INTERVALS, coverage.items(), strict=False):
        ax.plot(100 * coverage.index, 100 * values, style, color=colour, label=name)
    names = {"xlabel": "true Pass@1 (%)", "ylabel": "cells covered (%)"}
    return finish(ax, "beside", **names, ylim=(55, 100))
