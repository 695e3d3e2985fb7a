"""The paper's budget figure, and how long replies are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..analysis.budget_findings import NOT_MEASURED
from ..scores.known_scores import PAPER_BUDGET_CURVES
from .theme import BAR, BAR_EDGE, FULL, LINE, NOTE, finish, spread

# hollow: values from the paper are never drawn as our result
_PAPER_MARKS = {"linestyle": "none", "markerfacecolor": "none", "markersize": 6.5, "zorder": 5}
_BAND_ALPHA = 0.25
# on the axis of Pass@1: its end, the foot of the row of numbers, and the least distance of two dashed levels
_TOP, _NUMBERS, _APART = 122, 103, 5


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
    without: Mapping[str, str] | None = None,
    paper: Mapping[str, pd.DataFrame] | None = None,
) -> Figure:
    """Panels for one model, two in a row: Pass@1 bars and a throughput line against the KV budget, both with intervals.

    The number above a column is its Pass@1.

    Source: the paper's budget figures (arXiv 2601.18383).

    Args:
        frame: summary rows (`kvrepro.runs.summary`) of this model.
        panels: benchmark name, its title, and its budgets, from left to right; a budget without a row is drawn as
            missing, and no line crosses it.
        without: by benchmark what is said where no throughput is drawn, `PanelFinding.throughput`.
        paper: `paper_values` by benchmark, drawn as hollow marks.
    """
    columns = min(2, len(panels))
    rows_of = -(-len(panels) // columns)
    size = (3.5 * columns + 0.4, 3.0 * rows_of + 0.6)
    figure, grid = plt.subplots(rows_of, columns, figsize=size, squeeze=False, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.08)
    axes = grid.ravel()
    for unused in axes[len(panels) :]:
        unused.remove()
    none = pd.DataFrame(columns=["budget_tokens", "pass_at_1", "decode_tps"])
    known = {benchmark: (paper or {}).get(benchmark, none) for benchmark, _, _ in panels}
    scaled: dict[int, Axes] = {}
    for number, (ax, (benchmark, title, budgets)) in enumerate(zip(axes, panels, strict=False)):
        rows = frame[(frame.benchmark == benchmark) & frame.method.isin([method, "full"])]
        full = rows[rows.method == "full"][:1]
        # of a method with switches the first row of a budget
        cells = rows[rows.method == method].drop_duplicates("budget_tokens")
        cells = cells.set_index("budget_tokens").reindex(list(budgets))
        marks = known[benchmark].set_index("budget_tokens").reindex(list(budgets))
        _pass_at_1(ax, cells, full, marks)
        right = _throughput(ax, cells, full, marks)
        if right.get_yticks().size:
            scaled[number // columns] = right
        if cells.decode_tps.isna().all():
            why = (without or {}).get(benchmark, NOT_MEASURED)
            right.text(0.5, 0.995, why, transform=ax.transAxes, color=LINE, ha="center", va="top", size=8)
        ax.set_title(f"{model_title} | {title}")
    for ax in grid[:, 0]:
        ax.set_ylabel("Pass@1 (%)")
    for right in scaled.values():
        right.set_ylabel("Throughput (tokens/s)", color=LINE)
    handles = _legend_handles(method, any(map(len, known.values())))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns, fontsize=9)
    return figure


def _legend_handles(method: str, with_paper: bool) -> dict[str, object]:
    """By label, of what a panel may hold."""
    band = plt.Rectangle((0, 0), 1, 1, facecolor=LINE, alpha=_BAND_ALPHA, edgecolor="none")
    line = plt.Line2D([], [], color=LINE, marker="o", markersize=4.5)
    handles = {
        f"Pass@1 of {method}, 95 % interval": plt.Rectangle((0, 0), 1, 1, facecolor=BAR, edgecolor=BAR_EDGE),
        "Pass@1 of the full cache": plt.Line2D([], [], color=FULL, linestyle="--"),
        f"throughput of {method}, 95 % interval": (band, line),
        "throughput of the full cache": plt.Line2D([], [], color=LINE, linestyle="--"),
    }
    if with_paper:
        for what, mark, colour in (("Pass@1", "D", BAR_EDGE), ("throughput", "s", LINE)):
            marks = plt.Line2D([], [], marker=mark, markeredgecolor=colour, **_PAPER_MARKS)
            handles[f"{what} read from the paper's figure"] = marks
    return handles


def _pass_at_1(ax: Axes, cells: pd.DataFrame, full: pd.DataFrame, paper: pd.DataFrame) -> None:
    """Bars by budget, their numbers in a row above all that is drawn, the full cache as a dashed level."""
    places = np.arange(len(cells))
    ax.bar(places, cells.pass_at_1, width=0.72, color=BAR, edgecolor=BAR_EDGE, linewidth=0.8, zorder=1)
    bars = spread(cells, "pass_at_1", "pass_at_1_lo", "pass_at_1_hi")
    ax.errorbar(places, cells.pass_at_1, bars, fmt="none", ecolor=FULL, elinewidth=0.9, capsize=2, zorder=3)
    for place, value in zip(places, cells.pass_at_1, strict=True):
        text, look = ("missing", {"size": 7, "color": NOTE}) if np.isnan(value) else (f"{value:.1f}", {"size": 8})
        ax.annotate(text, (place, _NUMBERS), ha="center", va="bottom", **look)
    for level in full.pass_at_1:
        ax.axhline(level, color=FULL, linestyle="--", linewidth=1.1, zorder=2)
    ax.plot(places, paper.pass_at_1, marker="D", markeredgecolor=BAR_EDGE, **_PAPER_MARKS)
    ax.set(xlabel="KV budget (tokens)", ylim=(0, _TOP), xlim=(-0.6, len(cells) - 0.4), yticks=range(0, 101, 20))
    ax.set_xticks(places, list(map(str, cells.index)))
    sns.despine(ax=ax, right=False)


def _throughput(ax: Axes, cells: pd.DataFrame, full: pd.DataFrame, paper: pd.DataFrame) -> Axes:
    """The line with its band on an Axes of its own, whose zero is the bars'; returns that."""
    right, places = ax.twinx(), np.arange(len(cells))
    tps = cells.decode_tps
    right.plot(places, tps, color=LINE, marker="o", markersize=4.5, linewidth=1.6, zorder=4)
    right.fill_between(
        places, cells.decode_tps_lo.where(tps.notna()), cells.decode_tps_hi, color=LINE, alpha=_BAND_ALPHA, linewidth=0
    )
    # a band has no width at a budget that stands alone
    alone = (tps.notna() & tps.shift().isna() & tps.shift(-1).isna()).to_numpy()
    bars = spread(cells[alone], "decode_tps", "decode_tps_lo", "decode_tps_hi")
    right.errorbar(places[alone], tps[alone], bars, fmt="none", ecolor=LINE, elinewidth=0.9, capsize=2)
    levels = full.decode_tps[full.decode_tps.notna() & tps.notna().any()]
    for level in levels:
        right.axhline(level, color=LINE, linestyle="--", linewidth=1.1)
    right.plot(places, paper.decode_tps, marker="s", markeredgecolor=LINE, **_PAPER_MARKS)
    shown = [*cells.decode_tps_hi[tps.notna()], *levels, *paper.decode_tps.dropna()]
    right.set_ylim(0, _scale(max(shown, default=0.0), levels.max(), full.pass_at_1.max()))
    right.tick_params(axis="y", colors=LINE)
    right.yaxis.set_major_formatter("{x:,.0f}")
    if not shown:
        right.set_yticks([])
    ax.set_zorder(right.get_zorder() - 1)
    sns.despine(ax=right, right=False)
    return right


def _scale(highest: float, full_tps: float, full_pass_at_1: float) -> float:
    """The end of the throughput axis: all lies below the row of numbers, and the two dashed levels lie apart."""
    end = (highest or 1.0) * _TOP / 97
    place = full_tps / end * _TOP
    if abs(place - full_pass_at_1) < _APART and full_pass_at_1 > 2 * _APART:
        end = full_tps * _TOP / (full_pass_at_1 - _APART)
    return end


def reply_lengths(records: pd.DataFrame, *, max_new_tokens: int, ax: Axes) -> Axes:
    """Histogram of reply lengths, thought and answer together, right and wrong replies stacked; the limit is dashed."""
    shown = records.assign(
        new_tokens=records.n_thinking_tokens + records.n_answer_tokens,
        verdict=np.where(records.correct.astype(bool), "right", "wrong"),
    )
    # of a cell that is right or wrong throughout, the legend names what there is
    palette = {name: colour for name, colour in (("right", BAR), ("wrong", LINE)) if name in set(shown.verdict)}
    sns.histplot(
        shown, x="new_tokens", hue="verdict", hue_order=list(palette), palette=palette, alpha=1, multiple="stack", ax=ax
    )
    ax.axvline(max_new_tokens, color=FULL, linestyle="--", linewidth=1)
    ax.yaxis.get_major_locator().set_params(integer=True)
    # beside the bars, which it would cover
    sns.move_legend(ax, "center left", bbox_to_anchor=(1.0, 0.5), title=None)
    return finish(ax, xlabel="reply length (tokens; dashed: the limit)", ylabel="replies")
