"""Figures that compare methods: average bars, what pinning the question does, heat maps, fidelity curves."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..analysis.method_table import FULL as FULL_CACHE
from ..analysis.method_table import REFERENCE
from .theme import BEST, FULL, LINE, NOTE, PAGE, RANDOM, REST, end_labels, finish, spread

_SMALL = 9  # points, of labels of many rows
# share of a colour map that is used, so that dark text can be read on all of it
_PALE = 1.7


def short_labels(labels: Sequence[str]) -> list[str]:
    """Labels without the switches that all of a method's labels share, which tell nothing apart; `question` stays."""
    split = [(name, switches) for name, *switches in (label.split(" + ") for label in labels)]
    shared = {name: set.intersection(*(set(s) for n, s in split if n == name)) - {"question"} for name, _ in split}
    return [" + ".join([name, *(s for s in switches if s not in shared[name])]) for name, switches in split]


def average_bars(averages: pd.DataFrame, *, title: str) -> Figure:
    """Mean Pass@1 per method as bars with intervals, and beside them the most slots that each held.

    The full cache is dark, `dynts` orange, `random` purple, the best compressed method blue; the rest is grey.

    Args:
        averages: `method_table.average_table`.

    Source: the paper's summary figure (arXiv 2601.18383): average Pass@1 and KV cache length per method.
    """
    shown = averages.sort_values("pass_at_1", ascending=False, kind="stable", ignore_index=True)
    size = (PAGE, 0.185 * len(shown) + 1.3)
    figure, (ax, beside) = plt.subplots(1, 2, figsize=size, sharey=True, width_ratios=(3, 1), layout="constrained")
    y, compressed = np.arange(len(shown)), shown.label[shown.method != FULL_CACHE]
    known = {FULL_CACHE: FULL, REFERENCE: LINE, "random": RANDOM}
    known = {**dict.fromkeys(compressed[:1], BEST), **known}
    colours = [known.get(label, REST) for label in shown.label]
    ax.barh(y, shown.pass_at_1, height=0.74, color=colours, zorder=1)
    bars = spread(shown, "pass_at_1", "pass_at_1_lo", "pass_at_1_hi")
    ax.errorbar(shown.pass_at_1, y, xerr=bars, fmt="none", ecolor="black", elinewidth=0.8, capsize=1.5)
    for place, row in zip(y, shown.itertuples(), strict=True):
        ax.annotate(
            f"{row.pass_at_1:.0f}",
            (row.pass_at_1_hi, place),
            (3, 0),
            textcoords="offset points",
            va="center",
            size=_SMALL - 1,
        )
    ax.set_yticks(y, short_labels(shown.label), size=_SMALL)
    for tick, label in zip(ax.get_yticklabels(), shown.label, strict=True):
        if label in known:
            tick.set(color=known[label], weight="bold")
    ax.grid(axis="x", color="0.9")
    finish(ax, xlabel="mean Pass@1 (%), 95 % interval", xlim=(0, 112), ylim=(len(shown) - 0.3, -0.7))
    ax.set_xticks(range(0, 101, 20))
    beside.scatter(shown.mean_slots, y, s=14, color=colours)
    beside.grid(axis="both", color="0.9")
    beside.tick_params(axis="y", length=0)
    finish(beside, xlabel="most slots held,\nmean over sets", xlim=(0, 1.1 * max(shown.mean_slots)))
    figure.suptitle(title, size=10)
    return figure


def pinning_map(pairs: pd.DataFrame, *, title: str) -> Figure:
    """Pass@1 of each score alone and with the question pinned, `alone → pinned`, coloured by the gain.

    Args:
        pairs: `method_table.pinning_table`; the score that gains most in the mean comes first.
    """
    names = pairs.model.str.cat(pairs.benchmark, sep="\n") + "\n" + pairs.budget_tokens.astype(int).astype(str)
    pairs = pairs.assign(panel=names + " slots", text=[f"{r.alone:.0f} → {r.question:.0f}" for r in pairs.itertuples()])
    order, panels = pairs.groupby("score").gain.mean().sort_values(ascending=False).index, pairs.panel.unique()
    gains, texts = (
        pairs.pivot_table(index="score", columns="panel", values=value, aggfunc="first", sort=False).reindex(
            index=order, columns=panels
        )
        for value in ("gain", "text")
    )
    figure, ax = plt.subplots(figsize=(PAGE, 0.25 * len(order) + 1.5), layout="constrained")
    ax.set_facecolor("0.92")
    reach = 100 * _PALE
    dark = {"annot_kws": {"color": "black", "size": _SMALL}, "cmap": "PuOr_r", "vmin": -reach, "vmax": reach}
    sns.heatmap(gains, annot=texts.fillna(""), fmt="", cbar=False, linewidths=0.8, ax=ax, **dark)
    ax.set_yticks(np.arange(len(order)) + 0.5, short_labels(list(order)), size=_SMALL, rotation=0)
    ax.tick_params(length=0, labelsize=_SMALL)
    ax.xaxis.tick_top()
    ax.set(xlabel="", ylabel="")
    figure.suptitle(title, size=10)
    figure.supxlabel("Pass@1 (%): score alone → question pinned; orange gains, purple loses", size=_SMALL, color=NOTE)
    return figure


def window_ratio_maps(frame: pd.DataFrame, *, title: str) -> Figure:
    """A `window_ratio_map` per model, benchmark and budget of a `method_findings.setting_table`, two in a row."""
    panels = list(frame.groupby(["model", "benchmark", "budget_tokens"], sort=False))
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(PAGE / 2 * columns, 2.6 * rows + 0.4), squeeze=False, layout="constrained"
    )
    for ax in axes.ravel()[len(panels) :]:
        ax.remove()
    for ax, ((model, benchmark, budget), panel) in zip(axes.ravel(), panels, strict=False):
        window_ratio_map(panel, title=f"{model}\n{benchmark}, {int(budget)} slots", ax=ax)
    figure.suptitle(title, size=10)
    return figure


def window_ratio_map(frame: pd.DataFrame, *, title: str, ax: Axes) -> Axes:
    """Pass@1 of one method over local window and ratio, as in the paper's heat maps (missing cells stay grey).

    Args:
        frame: summary rows of one model, benchmark and budget with `window` and `ratio`.
    """
    grid = frame.pivot_table(index="window", columns="ratio", values="pass_at_1").sort_index(ascending=False)
    ax.set_facecolor("0.85")
    dark = {"annot_kws": {"color": "black"}, "cmap": "Blues", "vmin": 0, "vmax": 100 * _PALE, "cbar": False}
    sns.heatmap(grid, annot=True, fmt=".0f", linewidths=0.8, ax=ax, **dark)
    ax.set(title=title, xlabel="ratio of the other slots kept", ylabel="local window (tokens)")
    ax.set_yticklabels([str(int(w)) for w in grid.index], rotation=0)
    return ax


# axis label and scale
FIDELITY_LABELS = {
    "kl": ("KL to the full cache (nats)", "log"),
    "agrees": ("same most likely token (share)", "linear"),
    "answer_log_likelihood": ("answer log-likelihood, minus full (nats)", "symlog"),
}


def fidelity_panels(table: pd.DataFrame, *, title: str) -> Figure:
    """Every measure against the budget, one under the other.

    Args:
        table: `fidelity_profile.fidelity_table` of one model and benchmark. A model that does not think has no answer
            part, and no panel for it.
    """
    measures = [name for name in FIDELITY_LABELS if name in table and table[name].notna().any()]
    height = max(2.8, 0.165 * table.label.nunique() + 0.5)
    size = (PAGE, height * len(measures) + 0.4)
    figure, axes = plt.subplots(len(measures), 1, figsize=size, squeeze=False, sharex=True, layout="constrained")
    for ax, measure in zip(axes[:, 0], measures, strict=True):
        fidelity_curves(table, measure, ax=ax)
        ax.label_outer()
    figure.suptitle(title, size=10)
    return figure


def fidelity_curves(table: pd.DataFrame, measure: str, *, ax: Axes) -> Axes:
    """One line per method against the budget, named at its end; those that stand out have 95 % bands over traces.

    Black: oracles; orange: `dynts`; purple: `random`; blue: of the others the lowest KL in the mean; the rest is grey.

    Args:
        table: `fidelity_profile.fidelity_table` of one model and benchmark.
        measure: a key of `FIDELITY_LABELS`.
    """
    text, scale = FIDELITY_LABELS[measure]
    styles, ends = _line_styles(table), {}
    for label, style in styles.items():
        line = table[table.label == label].sort_values("budget_tokens").dropna(subset=[measure])
        if line.empty:
            continue
        ax.plot(line.budget_tokens, line[measure], marker=".", label=label, **style)
        if style["color"] != REST:
            low = line[f"{measure}_lo"]
            low = low.clip(lower=line[measure] / 20) if scale == "log" else low
            ax.fill_between(
                line.budget_tokens, low, line[f"{measure}_hi"], color=style["color"], alpha=0.1, linewidth=0
            )
        last = line.iloc[-1]
        ends[label] = (last.budget_tokens, last[measure], NOTE if style["color"] == REST else style["color"])
    ax.set_yscale(scale, **({"linthresh": 1.0} if scale == "symlog" else {}))
    ticks = sorted(table.budget_tokens.unique())
    finish(ax, xlabel="KV budget (tokens)", ylabel=text, xticks=ticks)
    end_labels(ax, dict(zip(short_labels(list(ends)), ends.values(), strict=True)), size=_SMALL)
    return ax


def _line_styles(table: pd.DataFrame) -> dict[str, dict]:
    """By label colour, width and order; the grey ones come first and lie below."""
    labels = list(dict.fromkeys(table.label))
    known = {REFERENCE: (LINE, 2.6), "random": (RANDOM, 1.8)}
    oracles = [label for label in labels if label.startswith("oracle")]
    others = table[~table.label.isin([*oracles, *known])]
    if len(others):
        known[others.groupby("label").kl.mean().idxmin()] = (BEST, 1.8)
    found = {label: {"color": REST, "linewidth": 1.0, "zorder": 1} for label in labels}
    for label in labels:
        if label in known:
            found[label] = {"color": known[label][0], "linewidth": known[label][1], "zorder": 3}
    for label, style in zip(oracles, ("-", ":", "--"), strict=False):
        found[label] = {"color": "black", "linewidth": 1.4, "linestyle": style, "zorder": 2}
    return found
