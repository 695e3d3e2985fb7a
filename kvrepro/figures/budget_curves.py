"""The paper's budget figure, and how long replies are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ..scores.known_scores import PAPER_BUDGET_CURVES
from .theme import BAR, BAR_EDGE, FULL, LINE, finish, spread

# hollow: values from the paper are never drawn as our result
_PAPER_MARKS = {"linestyle": "none", "markerfacecolor": "none", "markersize": 6.5, "zorder": 5}


def paper_values(model: str | None = None, benchmark: str | None = None) -> pd.DataFrame:
    """Values read off the paper's two figures, or off one panel; empty where the paper has no such panel.

    Columns: model, benchmark (titles), budget_tokens, pass_at_1 (percent, good to about a point), decode_tps (rough).
    """
    frame = pd.read_csv(PAPER_BUDGET_CURVES)
    for column, title in (("model", model), ("benchmark", benchmark)):
        frame = frame if title is None else frame[frame[column] == title]
    return frame


def budget_curves(
    frame: pd.DataFrame,
    panels: Sequence[tuple[str, str, Sequence[int]]],
    *,
    model_title: str,
    method: str = "dynts",
    paper: Mapping[str, pd.DataFrame] | None = None,
) -> Figure:
    """One row of panels for one model: Pass@1 bars with intervals and a throughput line against the KV budget.

    Source: the paper's budget figures (arXiv 2601.18383).

    Args:
        frame: summary rows (`kvrepro.runs.summary`) of this model.
        panels: benchmark name, its title, and its budgets, from left to right; a budget without a row is drawn as
            missing.
        paper: `paper_values` by benchmark, drawn as hollow marks.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(3.9 * len(panels), 3.3), squeeze=False, layout="constrained")
    none = pd.DataFrame(columns=["budget_tokens", "pass_at_1", "decode_tps"])
    known = {benchmark: (paper or {}).get(benchmark, none) for benchmark, _, _ in panels}
    for ax, (benchmark, title, budgets) in zip(axes[0], panels, strict=True):
        rows = frame[(frame.benchmark == benchmark) & frame.method.isin([method, "full"])]
        right = _panel(ax, rows, budgets, known[benchmark])
        ax.set_title(f"{model_title} | {title}")
    axes[0][0].set_ylabel("Pass@1 (%)")
    right.set_ylabel("Throughput (tokens/s)", color=LINE)
    handles = [
        plt.Rectangle((0, 0), 1, 1, facecolor=BAR, edgecolor=BAR_EDGE, label=f"Pass@1 of {method}, 95 % interval"),
        plt.Line2D([], [], color=LINE, marker="o", markersize=4.5, label="throughput"),
        plt.Line2D([], [], color=FULL, linestyle="--", label="Pass@1 of the full cache"),
    ]
    if any(map(len, known.values())):
        label = "read from the paper's figure (D Pass@1, s TPS)"
        handles.append(plt.Line2D([], [], marker="D", markeredgecolor=FULL, label=label, **_PAPER_MARKS))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles) if len(panels) > 1 else 1)
    return figure


def _panel(ax: Axes, frame: pd.DataFrame, budgets: Sequence[int], paper: pd.DataFrame) -> Axes:
    """Draw one benchmark; returns the Axes of the throughput, whose zero is the bars'."""
    right = ax.twinx()
    places = {budget: i for i, budget in enumerate(budgets)}
    full, cells = frame[frame.method == "full"], frame[frame.method != "full"]
    cells = cells[cells.budget_tokens.isin(places)].sort_values("budget_tokens")
    x = cells.budget_tokens.map(places)
    ax.bar(x, cells.pass_at_1, width=0.72, color=BAR, edgecolor=BAR_EDGE, linewidth=0.8, zorder=1)
    bars = spread(cells, "pass_at_1", "pass_at_1_lo", "pass_at_1_hi")
    ax.errorbar(x, cells.pass_at_1, bars, fmt="none", ecolor=FULL, elinewidth=0.9, capsize=2, zorder=3)
    right.plot(x, cells.decode_tps, color=LINE, marker="o", markersize=4.5, linewidth=1.6, zorder=4)
    # on the upper Axes and outlined, or the throughput line would run through the figures
    outlined = {"size": 8, "zorder": 6, "path_effects": [withStroke(linewidth=2.5, foreground="white")]}
    above = {"xycoords": ax.transData, "xytext": (0, 2), "textcoords": "offset points", "ha": "center"}
    for place, value, top in zip(x, cells.pass_at_1, cells.pass_at_1_hi, strict=True):
        right.annotate(f"{value:.1f}", (place, top), **above, **outlined)
    for place in set(places.values()) - set(x):
        ax.annotate("missing", (place, 4), rotation=90, ha="center", va="bottom", color="0.55", size=8)
    for level in full.pass_at_1[:1]:
        ax.axhline(level, color=FULL, linestyle="--", linewidth=1.1, zorder=2)
    paper = paper[paper.budget_tokens.isin(places)]
    ax.plot(paper.budget_tokens.map(places), paper.pass_at_1, marker="D", markeredgecolor=BAR_EDGE, **_PAPER_MARKS)
    right.plot(paper.budget_tokens.map(places), paper.decode_tps, marker="s", markeredgecolor=LINE, **_PAPER_MARKS)
    ax.set(xlabel="KV budget (tokens)", ylim=(0, 119), xlim=(-0.6, len(places) - 0.4), yticks=range(0, 101, 20))
    ax.set_xticks(range(len(places)), list(map(str, places)))
    right.tick_params(axis="y", colors=LINE)
    # the line lives in the upper half, clear of the bars' foot
    highest = pd.concat([cells.decode_tps, paper.decode_tps]).max()
    right.set_ylim(0, 1.25 * (highest if highest > 0 else 1.0))
    ax.set_zorder(right.get_zorder() - 1)
    for each in (ax, right):
        sns.despine(ax=each, right=False)
    return right


def reply_lengths(records: pd.DataFrame, *, max_new_tokens: int, ax: Axes) -> Axes:
    """Histogram of reply lengths, right and wrong replies stacked, the token limit as a dashed line."""
    shown = records.assign(
        new_tokens=records.n_thinking_tokens + records.n_answer_tokens,
        verdict=np.where(records.correct.astype(bool), "right", "wrong"),
    )
    palette = {"right": BAR_EDGE, "wrong": LINE}
    sns.histplot(
        shown, x="new_tokens", hue="verdict", hue_order=list(palette), palette=palette, multiple="stack", ax=ax
    )
    ax.axvline(max_new_tokens, color=FULL, linestyle="--", linewidth=1)
    return finish(ax, xlabel="reply length (tokens; dashed: the limit)", ylabel="replies")
