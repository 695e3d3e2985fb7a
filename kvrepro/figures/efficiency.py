"""Figures of `efficiency.ipynb`, from the frames of `bench.measurements` and `bench.bounds`."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..bench.settings import SPLIT_PARTS
from .theme import BEST, FULL, LINE, PAGE, finish, not_measured

COLOURS = {"generate": FULL, "window": BEST, "dynts": LINE}
COLOURS |= {"reference": "#8a6bb8", "kvpress": "#3f8f4f", "dynts_torch": "#d9a066"}
# light enough for the numbers in them
_PART_COLOURS = ["#7fa8d1", "#b5d4ee", "#f2a65a", "#ffd3a1", "#cfc8c3", "#7fbf77", "#ee8f90", "#c49ab8", "#e3c4da"]
MODEL_COLOURS = {"R1-Llama": BEST, "R1-Qwen": LINE}
_DASHED = {"kvpress", "dynts"}
MIB = 2**20
_TOLD_BY = ("variant", "batch")


def cost_by_step(frame: pd.DataFrame, *, title: str) -> Figure:
    """Three panels against the decode step: tokens per second, milliseconds per step, MiB of K and V."""
    figure, axes = plt.subplots(3, 1, figsize=(PAGE, 8.2), sharex=True, layout="constrained")
    if frame.empty:
        for ax in axes:
            not_measured(ax)
        return figure
    panels = {"tps": "throughput (tokens/s)", "step_ms": "time of a step (ms)", "kv_mib": "K and V in use (MiB)"}
    frame = frame.assign(kv_mib=frame.kv_bytes / MIB)
    for ax, (column, label) in zip(axes, panels.items(), strict=True):
        for variant, part in frame.groupby("variant", sort=False):
            style = {"color": COLOURS[variant], "linestyle": (0, (4, 2)) if variant in _DASHED else "-"}
            ax.plot(part.step, part[column], label=part.title.iloc[0], linewidth=1.6, **style)
        finish(ax, ylabel=label, ylim=(0, None), xlim=(0, None))
    axes[-1].set_xlabel("decode step")
    figure.suptitle(title, fontsize=10)
    _legend_below(figure, axes[0])
    return figure


def time_split(frame: pd.DataFrame, *, title: str, ax: Axes) -> Axes:
    """One bar per batch, shares of a step by part; the step's milliseconds stand at its end."""
    if frame.empty:
        return not_measured(ax)
    shares = 100 * frame.pivot_table(index="rows", columns="part", values="share", aggfunc="sum", fill_value=0)
    shares = shares.reindex(columns=SPLIT_PARTS, fill_value=0)
    shares.plot.barh(stacked=True, color=_PART_COLOURS, edgecolor="white", linewidth=0.6, width=0.8, ax=ax)
    for bars in ax.containers:
        ax.bar_label(bars, fmt=lambda share: f"{share:.0f}" if share >= 6 else "", label_type="center", size=8)
    for place, milliseconds in enumerate(frame.groupby("rows").ms.sum()):
        ax.text(101, place, f"{milliseconds:.0f} ms", va="center", size=8)
    ax.set_yticks(range(len(shares)), [f"batch {rows}" for rows in shares.index])
    ax.get_legend().remove()
    _legend_below(ax.figure, ax, columns=5)
    ticks = range(0, 101, 20)
    finish(ax, xlabel="share of a decode step (%)", ylabel="", xlim=(0, 112), xticks=ticks)
    ax.set_title(title, fontsize=10)
    return ax


def speed_by_budget(bounds: pd.DataFrame, paper: pd.DataFrame, measured: pd.DataFrame) -> Figure:
    """Tokens per second against the budget, one panel per model: the bound, the paper's values, what was measured.

    Args:
        bounds: of `bounds.bound_by_budget`.
        paper: of `budget_curves.paper_values`.
        measured: of `measurements.gpu_budget_rows`; may be empty, and then nothing is drawn for it.
    """
    models = list(dict.fromkeys(bounds.model))
    figure, axes = plt.subplots(1, len(models), figsize=(PAGE, 3.4), squeeze=False, layout="constrained")
    measured = measured[measured["rows"] == 20].sort_values("budget_tokens")
    hollow = {"linestyle": "none", "marker": "s", "markerfacecolor": "none", "markeredgecolor": LINE, "markersize": 4}
    drawn = (
        (bounds, "bound_tps", "bound by memory (computed)", {"color": FULL, "linestyle": "--"}),
        (paper, "decode_tps", "read from the paper's figures", hollow),
        (measured, "decode_tps", "measured", {"color": BEST, "marker": "o", "markersize": 4}),
    )
    for ax, model in zip(axes[0], models, strict=True):
        for frame, column, label, style in drawn:
            part = frame[frame.model == model]
            if len(part):
                ax.plot(part.budget_tokens, part[column], label=label, **style)
        finish(ax, title=model, xlabel="KV budget (tokens)", ylim=(0, None))
        ax.set_xticks(sorted(bounds.budget_tokens.unique())[::2])
    axes[0][0].set_ylabel("throughput (tokens/s), 20 rows")
    _legend_below(figure, axes[0][0])
    return figure


def roofline(frame: pd.DataFrame, bytes_per_s: float, flops: float, *, title: str, ax: Axes) -> Axes:
    """Operations a second against operations per byte, both logarithmic, under the roof of this machine."""
    if frame.empty:
        return not_measured(ax)
    x = np.geomspace(frame.intensity.min() / 2, max(frame.intensity.max(), flops / bytes_per_s) * 2, 200)
    roof = np.minimum(flops, x * bytes_per_s) / 1e9
    ax.plot(x, roof, color="0.3", linewidth=1.4, label="roof: memory and product")
    colours = {part.title.iloc[0]: COLOURS[variant] for variant, part in frame.groupby("variant", sort=False)}
    batches = frame["rows"].sort_values().unique()
    marks = dict(zip((f"batch {rows}" for rows in batches), "osD^v", strict=False))
    shown = frame.assign(variant=frame.title, gflops=frame.flops / 1e9, batch="batch " + frame["rows"].astype(str))
    sns.scatterplot(
        shown, x="intensity", y="gflops", hue="variant", palette=colours, style="batch", markers=marks, s=40, ax=ax
    )
    ax.get_legend().remove()
    finish(ax, xlabel="operations per byte moved", ylabel="Gflop/s", xscale="log", yscale="log")
    ax.set_title(title, fontsize=10)
    _legend_below(ax.figure, ax)
    return ax


def sizes_on_a_gpu(even: pd.DataFrame, batches: pd.DataFrame) -> Figure:
    """Above: evicted slots that pay for the head, by bytes, against the batch. Below: most rows against the budget."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(PAGE, 6.4), layout="constrained")
    dots = {"marker": "o", "markersize": 4}
    for model, colour in MODEL_COLOURS.items():
        part, rows = even[even.model == model], batches[batches.model == model]
        above.plot(part.rows, part.by_bytes, color=colour, label=f"{model}, by bytes moved", **dots)
        above.axhline(part.by_operations.iloc[0], color=colour, linestyle=":", label=f"{model}, by operations")
        budgets, full = rows.dropna(subset="budget_tokens"), rows[rows.budget_tokens.isna()].iloc[0]
        below.plot(budgets.budget_tokens, budgets.rows, color=colour, label=f"{model}, budget", **dots)
        below.axhline(full.rows, color=colour, linestyle="--", label=f"{model}, full cache at {full.slots:,}")
    names = {"xlabel": "batch (rows)", "ylabel": "evicted slots that pay for the head"}
    finish(above, "beside", xscale="log", yscale="log", **names)
    above.set_xticks(sorted(even.rows.unique()), [str(n) for n in sorted(even.rows.unique())])
    above.minorticks_off()
    finish(below, "beside", xlabel="KV budget (tokens)", ylabel="rows that fit into 80 GB", ylim=(0, None))
    return figure


def _legend_below(figure: Figure, ax: Axes, columns: int = 2) -> None:
    """What one panel holds, named under the figure in so many columns that a phone can show it."""
    # seaborn names the columns that it told things apart by among them
    shown = [
        (handle, name) for handle, name in zip(*ax.get_legend_handles_labels(), strict=True) if name not in _TOLD_BY
    ]
    figure.legend(*zip(*shown, strict=True), loc="outside lower center", ncols=columns, fontsize=9)
