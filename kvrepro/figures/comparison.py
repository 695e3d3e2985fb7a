"""One comparison: Pass@1 of each method with its interval, and below it how far the first one is ahead."""

from __future__ import annotations

from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..analysis.method_table import FULL as FULL_NAME
from .theme import BAR_EDGE, FULL, LINE, finish, spread


def comparison_points(table: pd.DataFrame, first: str, *, title: str) -> Figure:
    """Pass@1 per method and budget, best first, with 95 % intervals, then the first method's paired differences.

    Args:
        table: `comparison.Comparison.table`.
        first: label of the method that the others are compared with.
    """
    budgets = table.budget_tokens.dropna().unique()
    order = table.assign(full=table.label == FULL_NAME)
    shown = order.sort_values(["full", "budget_tokens", "pass_at_1"], ascending=[False, True, False], kind="stable")
    names = [
        f"{label}, {budget}" if len(budgets) > 1 and label != FULL_NAME else label
        for label, budget in zip(shown.label, shown.budget_tokens, strict=True)
    ]
    colours = [LINE if label == first else FULL if label == FULL_NAME else BAR_EDGE for label in shown.label]
    # one below the other, so that a phone shows them at a size that can be read
    size = (6.4, 0.72 * len(shown) + 2.4)
    figure, (scores, differences) = plt.subplots(2, 1, figsize=size, sharey=True, layout="constrained")
    _points(scores, shown, "pass_at_1", colours, "{:.1f}")
    scores.set_yticks(range(len(names)), [fill(name, 30) for name in names])
    scores.invert_yaxis()
    finish(scores, xlim=(-3, 112), xlabel="Pass@1 (%), 95 % interval")
    scores.set_xticks(range(0, 101, 20))
    differences.axvline(0, color="0.4", linewidth=0.9)
    if shown.first_minus.notna().any():
        _points(differences, shown, "first_minus", colours, "{:+.1f}")
    else:
        differences.text(0.5, 0.5, "nothing to compare with", ha="center", transform=differences.transAxes)
    finish(differences, xlabel=fill(f"{first} minus it (points, paired, 95 % interval)", 50))
    differences.margins(x=0.15)
    figure.suptitle(title, size=10)
    return figure


def _points(ax: Axes, shown: pd.DataFrame, column: str, colours: list[str], form: str) -> None:
    """A point per row with its interval, its value above it."""
    bars = spread(shown, column, f"{column}_lo", f"{column}_hi")
    for y, (value, colour) in enumerate(zip(shown[column], colours, strict=True)):
        if np.isnan(value):
            continue
        ax.errorbar(value, y, xerr=bars[:, [y]], fmt="o", color=colour, markersize=6, capsize=2, elinewidth=1.3)
        ax.annotate(form.format(value), (value, y), (0, 5), textcoords="offset points", ha="center", size=8)
    ax.grid(axis="x", color="0.92")
    ax.set_axisbelow(True)
