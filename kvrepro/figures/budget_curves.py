"""Figures from tidy frames: one function per figure, long-form data first, Axes or Figure returned."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ..scores.known_scores import PAPER_BUDGET_CURVES

BAR, BAR_EDGE, LINE, FULL = "#aed4ee", "#5b9cc9", "#e8821e", "#4d4d4d"


def set_theme() -> None:
    """The look of every figure of the package."""
    sns.set_theme(context="notebook", style="ticks", font_scale=0.85)
    plt.rcParams.update({"figure.dpi": 110, "savefig.dpi": 150, "svg.hashsalt": "kvrepro"})


def paper_values(model_title: str, benchmark_title: str) -> pd.DataFrame:
    """Values read off one panel of the paper's two figures; empty where the paper has no such panel.

    Columns: budget_tokens, pass_at_1 (percent, good to about a point), decode_tps (rough).
    """
    frame = pd.read_csv(PAPER_BUDGET_CURVES)
    panel = frame[(frame.model == model_title) & (frame.benchmark == benchmark_title)]
    names = {"kv_budget_tokens": "budget_tokens", "pass_at_1_percent": "pass_at_1", "throughput_tps": "decode_tps"}
    return panel.rename(columns=names)[list(names.values())]


def budget_panel(
    frame: pd.DataFrame, budgets: Sequence[int], *, title: str, readings: pd.DataFrame | None = None,
    ax: Axes | None = None, labels: tuple[bool, bool] = (True, True),
) -> tuple[Axes, Axes]:  # fmt: skip
    """Pass@1 bars with intervals and a throughput line against the KV budget.

    Args:
        frame: summary rows of one model, benchmark and method, with or without its `full` row.
        budgets: every budget of the panel; one without a row is drawn as missing.
        readings: values from the paper (`paper_values`), drawn as hollow marks.
        labels: whether to label the left and the right axis.

    Returns:
        The Axes of Pass@1 and of throughput.
    """
    ax = plt.gca() if ax is None else ax
    right = ax.twinx()
    places = {budget: i for i, budget in enumerate(budgets)}
    cells = frame[frame.method != "full"].dropna(subset=["budget_tokens"])
    cells = cells[cells.budget_tokens.isin(list(places))].sort_values("budget_tokens")
    x = np.array([places[int(b)] for b in cells.budget_tokens])
    if len(x):
        score = cells.pass_at_1.to_numpy(float)
        spread = [score - cells.pass_at_1_lo.to_numpy(float), cells.pass_at_1_hi.to_numpy(float) - score]
        ax.bar(x, score, width=0.72, color=BAR, edgecolor=BAR_EDGE, linewidth=0.8, zorder=1)
        ax.errorbar(x, score, yerr=spread, fmt="none", ecolor=FULL, elinewidth=0.9, capsize=2, zorder=3)
        for place, value, top in zip(x, score, cells.pass_at_1_hi.to_numpy(float), strict=True):
            # on the upper Axes and outlined, or the throughput line would run through the figures
            right.annotate(
                f"{value:.1f}", (place, top), xycoords=ax.transData, xytext=(0, 2), textcoords="offset points",
                ha="center", size=8, zorder=6, path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )  # fmt: skip
        right.plot(x, cells.decode_tps, color=LINE, marker="o", markersize=4.5, linewidth=1.6, zorder=4)
    for budget, place in places.items():
        if budget not in set(cells.budget_tokens.astype(int)):
            ax.annotate("missing", (place, 4), rotation=90, ha="center", va="bottom", color="0.55", size=8)
    full = frame[frame.method == "full"]
    if len(full):
        level = float(full.pass_at_1.iloc[0])
        ax.axhline(level, color=FULL, linestyle="--", linewidth=1.1, zorder=2)
    if readings is not None and len(readings):
        known = readings[readings.budget_tokens.isin(list(places))]
        at = [places[int(b)] for b in known.budget_tokens]
        marks = dict(linestyle="none", markerfacecolor="none", markersize=6.5, zorder=5)
        ax.plot(at, known.pass_at_1, marker="D", markeredgecolor=BAR_EDGE, **marks)
        right.plot(at, known.decode_tps, marker="s", markeredgecolor=LINE, **marks)
    ax.set(title=title, xlabel="KV budget (tokens)", ylim=(0, 119), xlim=(-0.6, len(places) - 0.4))
    ax.set_yticks(range(0, 101, 20))
    ax.set_xticks(range(len(places)), [str(b) for b in places])
    ax.set_ylabel("Pass@1 (%)" if labels[0] else "")
    right.set_ylabel("Throughput (tokens/s)" if labels[1] else "", color=LINE)
    right.tick_params(axis="y", colors=LINE)
    # the line lives in the upper half, clear of the bars' foot, and its axis starts at 0 like the bars'
    shown = [v for v in [*cells.decode_tps, *(readings.decode_tps if readings is not None else [])] if v == v]
    right.set_ylim(0, 1.25 * max(shown, default=1.0))
    ax.set_zorder(right.get_zorder() - 1)
    sns.despine(ax=ax, right=False)
    sns.despine(ax=right, right=False)
    return ax, right


def budget_curves(
    frame: pd.DataFrame, panels: Sequence[tuple[str, str, Sequence[int]]], *, model_title: str,
    method: str = "dynts", readings: dict[str, pd.DataFrame] | None = None,
) -> Figure:  # fmt: skip
    """One row of panels for one model: the paper's budget figure.

    Args:
        frame: summary rows (`kvrepro.runs.summary`) of this model.
        panels: benchmark name, its title, and its budgets, from left to right.
        readings: values from the paper by benchmark.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(3.9 * len(panels), 3.3), squeeze=False, layout="constrained")
    for i, (ax, (benchmark, title, budgets)) in enumerate(zip(axes[0], panels, strict=True)):
        rows = frame[(frame.benchmark == benchmark) & frame.method.isin([method, "full"])]
        budget_panel(
            rows, budgets, title=f"{model_title} | {title}", ax=ax, readings=(readings or {}).get(benchmark),
            labels=(i == 0, i == len(panels) - 1),
        )  # fmt: skip
    handles = [
        plt.Rectangle((0, 0), 1, 1, facecolor=BAR, edgecolor=BAR_EDGE, label=f"Pass@1 of {method}, 95 % interval"),
        plt.Line2D([], [], color=LINE, marker="o", markersize=4.5, label="throughput"),
        plt.Line2D([], [], color=FULL, linestyle="--", label="Pass@1 of the full cache"),
    ]
    if readings and any(len(r) for r in readings.values()):
        handles.append(
            plt.Line2D(
                [],
                [],
                marker="D",
                linestyle="none",
                markerfacecolor="none",
                markeredgecolor=FULL,
                label="read from the paper's figure (D Pass@1, s TPS)",
            )
        )
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles) if len(panels) > 1 else 1, frameon=False
    )
    return figure


def reply_lengths(records: pd.DataFrame, *, max_new_tokens: int, ax: Axes | None = None) -> Axes:
    """Histogram of reply lengths, right and wrong replies stacked, the token limit as a dashed line."""
    ax = plt.gca() if ax is None else ax
    shown = records.assign(
        new_tokens=records.n_thinking_tokens + records.n_answer_tokens,
        verdict=np.where(records.correct.astype(bool), "right", "wrong"),
    )
    palette = {"right": BAR_EDGE, "wrong": LINE}
    sns.histplot(
        shown, x="new_tokens", hue="verdict", hue_order=["right", "wrong"], palette=palette, multiple="stack", ax=ax
    )
    ax.axvline(max_new_tokens, color=FULL, linestyle="--", linewidth=1)
    ax.set(xlabel="reply length (tokens; dashed: the limit)", ylabel="replies")
    sns.despine(ax=ax)
    return ax
