"""Figures of `efficiency.ipynb`, from the frames of `measurements` and `bounds`."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .budget_curves import BAR_EDGE, FULL, LINE

COLOURS = {
    "generate": FULL, "reference": "#9c755f", "kvpress": "#59a14f", "window": BAR_EDGE, "dynts": LINE,
    "dynts_torch": "#b07aa1",
}  # fmt: skip
PART_COLOURS = dict(
    zip(
        ("attention", "projections", "mlp", "head", "other", "score", "evict", "sample", "host"),
        ("#4e79a7", "#a0cbe8", "#f28e2b", "#ffbe7d", "#bab0ac", "#59a14f", "#e15759", "#b07aa1", "#d4a6c8"),
        strict=True,
    )
)
MODEL_COLOURS = {"R1-Llama": BAR_EDGE, "R1-Qwen": LINE}
MIB = 2**20


def cost_by_step(frame: pd.DataFrame, *, title: str) -> Figure:
    """Three panels against the decode step: tokens per second, milliseconds per step, MiB of K and V."""
    figure, axes = plt.subplots(1, 3, figsize=(13.2, 3.8), layout="constrained")
    panels = (
        ("tps", "throughput (tokens/s)", 1.0),
        ("step_ms", "time of a step (ms)", 1.0),
        ("kv_bytes", "K and V in use (MiB)", MIB),
    )
    if frame.empty:
        for ax in axes:
            _not_measured(ax)
        return figure
    styles = {"kvpress": (0, (4, 2)), "dynts": (0, (4, 2))}
    for ax, (column, label, unit) in zip(axes, panels, strict=True):
        for variant, part in frame.groupby("variant", sort=False):
            ax.plot(
                part.step, part[column] / unit, color=COLOURS[variant], label=part.title.iloc[0], linewidth=1.6,
                linestyle=styles.get(variant, "-"),
            )  # fmt: skip
        ax.set(xlabel="decode step", ylabel=label, ylim=(0, None), xlim=(0, None))
        sns.despine(ax=ax)
    figure.suptitle(title, fontsize=10)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=8)
    return figure


def time_split(frame: pd.DataFrame, *, title: str, ax: Axes | None = None) -> Axes:
    """One bar per batch, shares of a step by part; the step's milliseconds stand at its end."""
    ax = plt.gca() if ax is None else ax
    if frame.empty:
        return _not_measured(ax)
    batches = sorted(frame.rows.unique())
    for place, rows in enumerate(batches):
        left, mine = 0.0, frame[frame.rows == rows]
        for part in PART_COLOURS:
            share = 100 * mine[mine.part == part].share.sum()
            label = part if not place else None
            ax.barh(place, share, left=left, color=PART_COLOURS[part], edgecolor="white", linewidth=0.6, label=label)
            if share >= 6:
                ax.text(left + share / 2, place, f"{share:.0f}", ha="center", va="center", size=8)
            left += share
        ax.text(101, place, f"{mine.ms.sum():.0f} ms", va="center", size=8)
    ax.set_yticks(range(len(batches)), [f"batch {rows}" for rows in batches])
    ax.set(xlabel="share of a decode step (%)", xlim=(0, 112), ylim=(-0.6, len(batches) - 0.4), title=title)
    ax.set_xticks(range(0, 101, 20))
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12 - 0.24 / len(batches)), ncols=5, frameon=False, fontsize=8)
    sns.despine(ax=ax)
    return ax


def speed_by_budget(bounds: pd.DataFrame, paper: pd.DataFrame, measured: pd.DataFrame) -> Figure:
    """Tokens per second against the budget, one panel per model: the bound, the paper's readings, what was measured.

    Args:
        bounds: of `bounds.bound_by_budget`.
        paper: of `measurements.paper_speeds`.
        measured: of `measurements.gpu_budget_rows`; may be empty, and then nothing is drawn for it.
    """
    models = list(dict.fromkeys(bounds.model))
    figure, axes = plt.subplots(1, len(models), figsize=(5.0 * len(models), 3.8), squeeze=False, layout="constrained")
    for ax, model in zip(axes[0], models, strict=True):
        bound = bounds[bounds.model == model]
        ax.plot(bound.budget_tokens, bound.bound_tps, color=FULL, linestyle="--", label="bound by memory (computed)")
        read = paper[paper.model == model]
        ax.plot(
            read.budget_tokens, read.decode_tps, linestyle="none", marker="s", markerfacecolor="none",
            markeredgecolor=LINE, label="read from the paper's figures",
        )  # fmt: skip
        mine = measured[(measured.model == model) & (measured.rows == 20)].sort_values("budget_tokens")
        if len(mine):
            ax.plot(mine.budget_tokens, mine.decode_tps, color=BAR_EDGE, marker="o", markersize=4, label="measured")
        ax.set(title=model, xlabel="KV budget (tokens)", ylim=(0, None))
        sns.despine(ax=ax)
    axes[0][0].set_ylabel("throughput (tokens/s), 20 rows")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=8)
    return figure


def roofline(frame: pd.DataFrame, bytes_per_s: float, flops: float, *, title: str, ax: Axes | None = None) -> Axes:
    """Operations a second against operations per byte, both logarithmic, under the roof of this machine."""
    ax = plt.gca() if ax is None else ax
    if frame.empty:
        return _not_measured(ax)
    x = np.geomspace(frame.intensity.min() / 2, max(frame.intensity.max(), flops / bytes_per_s) * 2, 200)
    ax.plot(x, np.minimum(flops, x * bytes_per_s) / 1e9, color="0.3", linewidth=1.4)
    markers = dict(zip(sorted(frame.rows.unique()), "osD^v", strict=False))
    for (variant, rows), part in frame.groupby(["variant", "rows"], sort=False):
        style = dict(marker=markers[rows], color=COLOURS[variant], markersize=6)
        ax.plot(part.intensity, part.flops / 1e9, linestyle="none", **style)
    titles = frame.drop_duplicates("variant").set_index("variant").title
    handles = [plt.Line2D([], [], color="0.3", linewidth=1.4, label="roof: memory and product")]
    handles += [plt.Line2D([], [], color=COLOURS[v], linewidth=5, label=title) for v, title in titles.items()]
    handles += [
        plt.Line2D([], [], color="0.3", linestyle="none", marker=marker, label=f"batch {rows}")
        for rows, marker in markers.items()
    ]
    ax.set(xscale="log", yscale="log", xlabel="operations per byte moved", ylabel="Gflop/s", title=title)
    ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    sns.despine(ax=ax)
    return ax


def sizes_on_a_gpu(even: pd.DataFrame, batches: pd.DataFrame) -> Figure:
    """Left: evicted slots that pay for the head, by bytes, against the batch. Right: most rows against the budget."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.6, 3.8), layout="constrained")
    for model, part in even.groupby("model", sort=False):
        colour = MODEL_COLOURS[model]
        left.plot(part.rows, part.by_bytes, color=colour, marker="o", markersize=4, label=f"{model}, by bytes moved")
        left.axhline(part.by_operations.iloc[0], color=colour, linestyle=":", label=f"{model}, by operations")
    left.set(xscale="log", yscale="log", xlabel="batch (rows)", ylabel="evicted slots that pay for the head")
    shown = sorted(even.rows.unique())
    left.set_xticks(shown, [str(n) for n in shown])
    left.minorticks_off()
    for model, part in batches.groupby("model", sort=False):
        budgets, full = part.dropna(subset="budget_tokens"), part[part.budget_tokens.isna()]
        colour = MODEL_COLOURS[model]
        right.plot(
            budgets.budget_tokens, budgets.rows, color=colour, marker="o", markersize=4, label=f"{model}, budget"
        )
        name = f"{model}, full cache at {full.slots.iloc[0]:,}"
        right.axhline(full.rows.iloc[0], color=colour, linestyle="--", label=name)
    right.set(xlabel="KV budget (tokens)", ylabel="rows that fit into 80 GB", ylim=(0, None))
    for ax in (left, right):
        ax.legend(frameon=False, fontsize=8, loc="upper right" if ax is right else "best")
        sns.despine(ax=ax)
    return figure


def _not_measured(ax: Axes) -> Axes:
    """An empty panel that says why."""
    ax.text(0.5, 0.5, "not measured", ha="center", va="center", color="0.5", transform=ax.transAxes)
    ax.set(xticks=[], yticks=[])
    return ax
