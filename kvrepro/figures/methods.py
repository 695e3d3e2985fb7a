"""Figures that compare methods: average bars, what pinning the question does, heat maps, fidelity curves."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .theme import BAR, BAR_EDGE, LINE, finish, legend_below, spread


def average_bars(averages: pd.DataFrame, *, title: str) -> Axes:
    """Mean Pass@1 per method as bars with intervals, the slots held as a dashed line on the upper axis.

    Args:
        averages: `method_table.average_table`.

    Source: the paper's summary figure (arXiv 2601.18383): average Pass@1 and KV cache length per method.
    """
    _, ax = plt.subplots(figsize=(8.4, 0.21 * len(averages) + 1.5), layout="constrained")
    shown = averages.sort_values("pass_at_1", ascending=False, kind="stable", ignore_index=True)
    y = np.arange(len(shown))
    colours = ["0.72" if m == "full" else LINE if m == "dynts" else BAR for m in shown.method]
    ax.barh(y, shown.pass_at_1, height=0.74, color=colours, edgecolor=BAR_EDGE, linewidth=0.6, zorder=1)
    bars = spread(shown, "pass_at_1", "pass_at_1_lo", "pass_at_1_hi")
    ax.errorbar(shown.pass_at_1, y, xerr=bars, fmt="none", ecolor="0.25", elinewidth=0.8, capsize=1.5)
    ax.set_yticks(y, shown.label, size=8)
    ax.set(xlabel="mean Pass@1 (%), 95 % interval", xlim=(0, 105), ylim=(len(shown) - 0.3, -0.7))
    # over the labels as well: the Axes alone are too narrow for it
    ax.set_title(title, loc="right", size=10)
    above = ax.twiny()
    above.plot(shown.mean_slots, y, color="0.35", linestyle="--", linewidth=1.2, marker=".", markersize=4)
    above.set(xlabel="most slots held, mean over sets (dashed)", xlim=(0, 1.15 * max(shown.mean_slots)))
    for each in (ax, above):
        sns.despine(ax=each, top=False)
    return ax


def pinning_dumbbells(pairs: pd.DataFrame, *, title: str) -> Figure:
    """Each score alone (hollow) and with the question pinned (filled), one panel per model and benchmark.

    Args:
        pairs: `method_table.pinning_table`.
    """
    panels = list(pairs.groupby(["model", "benchmark"], sort=False))
    scores = list(dict.fromkeys(pairs.score))
    size = (3.0 * len(panels) + 1.6, 0.27 * len(scores) + 1.4)
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for ax, ((model, benchmark), panel) in zip(axes[0], panels, strict=True):
        y = [scores.index(s) for s in panel.score]
        ax.hlines(y, panel.alone, panel.question, color="0.6", linewidth=1.4, zorder=1)
        ax.scatter(panel.alone, y, s=30, facecolor="white", edgecolor=BAR_EDGE, zorder=2, label="score alone")
        ax.scatter(panel.question, y, s=30, color=LINE, zorder=2, label="question pinned")
        ax.set_yticks(range(len(scores)), scores)
        ax.grid(axis="x", color="0.9")
        name = f"{model}\n{benchmark}, budget {int(panel.budget_tokens.iloc[0])}"
        finish(ax, title=name, xlim=(-4, 104), xlabel="Pass@1 (%)")
    axes[0][0].invert_yaxis()
    legend_below(figure, axes[0][0], size=9.35)
    figure.suptitle(title, size=10)
    return figure


def window_ratio_map(frame: pd.DataFrame, *, title: str, ax: Axes) -> Axes:
    """Pass@1 of one method over local window and ratio, as in the paper's heat maps (missing cells stay grey).

    Args:
        frame: summary rows of one model, benchmark and budget with `window` and `ratio`.
    """
    grid = frame.pivot_table(index="window", columns="ratio", values="pass_at_1").sort_index(ascending=False)
    ax.set_facecolor("0.85")
    bar = {"label": "Pass@1 (%)"}
    sns.heatmap(grid, annot=True, fmt=".0f", cmap="Blues", vmin=0, vmax=100, linewidths=0.8, ax=ax, cbar_kws=bar)
    ax.set(title=title, xlabel="ratio of the other slots kept", ylabel="local window (tokens)")
    ax.set_yticklabels([str(int(w)) for w in grid.index], rotation=0)
    return ax


# axis label and scale
FIDELITY_LABELS = {
    "kl": ("KL to the full cache (nats)", "log"),
    "agrees": ("same most likely token (share)", "linear"),
    "answer_log_likelihood": ("log-likelihood of the answer, minus full (nats)", "symlog"),
}


def fidelity_curves(table: pd.DataFrame, measure: str, labels: Sequence[str], *, title: str, ax: Axes) -> Axes:
    """One line per method against the budget, 95 % bands over traces; oracles in black, dynts in orange.

    Args:
        table: `fidelity_profile.fidelity_table` of one model and benchmark.
        measure: a key of `FIDELITY_LABELS`.
        labels: the methods to draw, in the order of the legend.
    """
    text, scale = FIDELITY_LABELS[measure]
    others = [label for label in labels if not label.startswith(("oracle", "dynts"))]
    # the hues from red to yellow are left to dynts
    palette = dict(zip(others, sns.husl_palette(len(others) + 4, h=0.2), strict=False))
    for i, label in enumerate(labels):
        line = table[table.label == label].sort_values("budget_tokens")
        if line.empty:
            continue
        if label.startswith("oracle"):
            colour, width, styles = "black", 1.4, ["-", ":"]
        elif label.startswith("dynts"):
            colour, width, styles = LINE, 2.6, ["-"]
        else:
            colour, width, styles = palette[label], 1.4, ["-", "--", "-."]
        low = line[f"{measure}_lo"]
        if scale == "log":
            low = low.clip(lower=line[measure] / 20)
        style = {"linestyle": styles[i % len(styles)], "linewidth": width, "color": colour}
        ax.plot(line.budget_tokens, line[measure], marker=".", label=label, **style)
        # twenty bands on top of each other hide the lines
        faint = {"alpha": min(0.08, 0.6 / len(labels)), "linewidth": 0}
        ax.fill_between(line.budget_tokens, low, line[f"{measure}_hi"], color=colour, **faint)
    ax.set_yscale(scale, **({"linthresh": 1.0} if scale == "symlog" else {}))
    ticks = sorted(table.budget_tokens.unique())
    return finish(ax, xlabel="KV budget (tokens)", ylabel=text, title=title, xticks=ticks)
