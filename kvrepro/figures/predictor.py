"""Figures of the predictor and of the observations behind it: tidy frames in, Axes out."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from ..bench.head_cost import break_even_length
from .budget_curves import BAR_EDGE, FULL, LINE

COLOURS = {
    "head": "#1f6fb4", "dynts": "#1f6fb4", "identity": "#4a9c5d", "position": "#8a6bb8", "random": "#8c8c8c",
    "top": "#1f6fb4", "bottom": LINE, "predicted top": "#4a9c5d", "dynts, untrained head": LINE,
    "dynts, oracle labels": "#4a9c5d",
}  # fmt: skip
_NAMES = {"identity": "token identity", "position": "position in the thought", "head": "predictor"}


def sorted_curve(frame: pd.DataFrame, *, share: float = 0.2, ax: Axes | None = None) -> Axes:
    """Attention on the most attended thinking tokens, cumulated (`observations.sorted_share_curve`)."""
    ax = plt.gca() if ax is None else ax
    # nothing of the thought holds nothing of the attention
    frame = pd.concat([frame.iloc[:1] * 0, frame], ignore_index=True)
    x = 100 * frame.share
    ax.fill_between(x, 100 * frame.mass_lo, 100 * frame.mass_hi, color=BAR_EDGE, alpha=0.35, linewidth=0)
    ax.plot(x, 100 * frame.mass_mean, color=COLOURS["head"], label="mean over traces, 95 % interval")
    ax.plot([0, 100], [0, 100], color=FULL, linestyle=":", linewidth=1, label="attention spread evenly")
    mass = float(np.interp(share, frame.share, frame.mass_mean))
    ax.plot([100 * share, 100 * share, 0], [0, 100 * mass, 100 * mass], color=LINE, linewidth=1, linestyle="--")
    ax.annotate(
        f"top {round(100 * share)} %: {100 * mass:.1f} %", (100 * share, 100 * mass), xytext=(8, -11),
        textcoords="offset points", size=9, color=LINE, path_effects=[withStroke(linewidth=3, foreground="white")],
    )  # fmt: skip
    ax.set(xlabel="thinking tokens, most attended first (%)", ylabel="attention on them (%)", xlim=(0, 100))
    ax.set_ylim(0, 100)
    ax.legend(frameon=False, loc="lower right")
    sns.despine(ax=ax)
    return ax


def head_map(shares, *, ax: Axes | None = None) -> Axes:
    """Percent of every head's answer attention that lies on the thought (`observations.head_shares`, `[L, Hq]`)."""
    ax = plt.gca() if ax is None else ax
    values = 100 * np.asarray(shares)
    sns.heatmap(
        values, annot=values.size <= 60, fmt=".0f", cmap="OrRd", vmin=0, vmax=100, ax=ax,
        cbar_kws={"label": "on the thought (%)"},
    )  # fmt: skip
    ax.set(xlabel="query head", ylabel="layer")
    return ax


def kept_part_accuracy(frame: pd.DataFrame, *, full: float | None = None, ax: Axes | None = None) -> Axes:
    """Accuracy against the kept part of the thought, one line per choice (`kept_thoughts.accuracy_by_part`).

    Args:
        frame: columns choice, share, accuracy, lo, hi.
        full: accuracy with the whole thought, percent.
    """
    ax = plt.gca() if ax is None else ax
    known = [name for name in ("top", "predicted top", "random", "bottom") if name in set(frame.choice)]
    for number, choice in enumerate([*known, *sorted(set(frame.choice) - set(known))]):
        part = frame[frame.choice == choice].sort_values("share")
        spread = [part.accuracy - part.lo, part.hi - part.accuracy]
        # a little apart, or the intervals of one part would lie on each other
        ax.errorbar(
            100 * part.share + 0.7 * (number - 1.5), part.accuracy, np.clip(spread, 0, None), marker="o",
            markersize=4, capsize=2, linewidth=1.5, elinewidth=0.9, color=COLOURS.get(choice), label=choice,
        )  # fmt: skip
    if full is not None:
        ax.axhline(full, color=FULL, linestyle="--", linewidth=1, label="whole thought")
    ax.set(xlabel="part of the thought kept before </think> (%)", ylabel="correct answers (%)", ylim=(-3, 104))
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    sns.despine(ax=ax)
    return ax


def training_curves(log: pd.DataFrame, *, axes: tuple[Axes, Axes] | None = None) -> tuple[Axes, Axes]:
    """Loss on training and held-out traces, and held-out ranking, by epoch (`log.csv` of a head)."""
    loss, ranking = plt.subplots(1, 2, figsize=(8.4, 3), layout="constrained")[1] if axes is None else axes
    loss.plot(log.epoch, log.train_mse, color=COLOURS["head"], marker=".", label="training")
    loss.plot(log.epoch, log.held_out_mse, color=LINE, marker=".", label="held out")
    loss.set(xlabel="epoch", ylabel="squared error (mapped label²)", yscale="log")
    loss.legend(frameon=False)
    ranking.plot(log.epoch, log.held_out_kendall_tau, color=COLOURS["head"], marker=".", label="Kendall tau")
    ranking.plot(log.epoch, log.held_out_top20_overlap, color=LINE, marker=".", label="top-20 % overlap")
    ranking.set(xlabel="epoch", ylabel="held-out traces (fraction)", ylim=(0, 1))
    ranking.legend(frameon=False, loc="lower right")
    for ax in (loss, ranking):
        ax.xaxis.get_major_locator().set_params(integer=True)
        sns.despine(ax=ax)
    return loss, ranking


def overlap_by_k(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Share of the true top k % found in the predicted top k %, by k and predictor; bars are 95 % intervals.

    Args:
        frame: columns predictor, k_percent, mean, lo, hi (fractions).
    """
    ax = plt.gca() if ax is None else ax
    for name, part in frame.groupby("predictor", sort=False):
        part = part.sort_values("k_percent")
        ax.errorbar(
            part.k_percent, 100 * part["mean"], 100 * np.array([part["mean"] - part.lo, part.hi - part["mean"]]),
            marker="o", markersize=4, capsize=2, linewidth=1.5, elinewidth=0.9, color=COLOURS.get(name),
            label=_NAMES.get(name, name),
        )  # fmt: skip
    ax.set(xlabel="k (% of the thinking tokens)", ylabel="overlap of the top k % (%)", ylim=(0, 100))
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    sns.despine(ax=ax)
    return ax


def predicted_and_true(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Predicted against true mapped label of every thinking token of one trace, the true top 20 % marked.

    Args:
        frame: columns true, predicted, is_top.
    """
    ax = plt.gca() if ax is None else ax
    for is_top, colour, label in ((False, BAR_EDGE, "others"), (True, LINE, "true top 20 %")):
        part = frame[frame.is_top == is_top]
        ax.scatter(part.true, part.predicted, s=11, color=colour, alpha=0.75, linewidth=0, label=label)
    low, high = min(frame.true.min(), frame.predicted.min()), max(frame.true.max(), frame.predicted.max())
    ax.plot([low, high], [low, high], color=FULL, linestyle=":", linewidth=1)
    ax.set(xlabel="true label (mapped)", ylabel="predicted")
    ax.legend(frameon=False, loc="upper left")
    sns.despine(ax=ax)
    return ax


def recipe_comparison(frame: pd.DataFrame, *, metric: str = "kendall_tau", ax: Axes | None = None) -> Axes:
    """One metric for several recipes, mean and 95 % interval over held-out traces.

    Args:
        frame: columns recipe, metric, mean, lo, hi.
    """
    ax = plt.gca() if ax is None else ax
    part = frame[frame.metric == metric].reset_index(drop=True)
    places = np.arange(len(part))[::-1]
    ax.errorbar(
        part["mean"], places, xerr=np.array([part["mean"] - part.lo, part.hi - part["mean"]]), fmt="o", capsize=3,
        color=COLOURS["head"],
    )  # fmt: skip
    ax.set_yticks(places, part.recipe)
    names = {"kendall_tau": "Kendall tau", "top20_overlap": "top-20 % overlap (fraction)"}
    ax.set(xlabel=names.get(metric, metric) + ", held-out traces", ylim=(-0.6, len(part) - 0.4))
    ax.grid(axis="x", color="0.9")
    sns.despine(ax=ax)
    return ax


def cost_of_the_head(costs: pd.DataFrame, even: dict[str, float | None], *, ax: Axes | None = None) -> Axes:
    """Step time against cached slots, the head on top of it, and the numbers of slots that pay for the head.

    Args:
        costs: of `cost.step_costs`.
        even: name of an account -> evicted slots at break-even; None is left out.
    """
    ax = plt.gca() if ax is None else ax
    x, step = costs.slots, 1e3 * costs.step_s
    ax.plot(x, step, color=COLOURS["head"], marker="o", markersize=4, label="decode step")
    ax.plot(x, step + 1e3 * costs.head_s, color=LINE, marker="o", markersize=4, label="decode step + head")
    styles = ("--", "-.", ":")
    for (name, value), style in zip(even.items(), styles, strict=False):
        if value is not None:
            ax.axvline(value, color=FULL, linestyle=style, linewidth=1, label=f"{name}: {value:,.0f} slots")
    ax.set(xlabel="cached slots per row", ylabel=f"milliseconds per step, {costs.rows.iloc[0]} rows", xlim=(0, None))
    ax.set_ylim(0, None)
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    sns.despine(ax=ax)
    return ax


def break_even_lengths(saved: pd.DataFrame, even: dict[str, float | None], *, ax: Axes | None = None) -> Axes:
    """Slots saved at every step of a reply, what the head costs in slots, and the lengths at which it has paid.

    Args:
        saved: of `cost.saved_slots`.
        even: name of an account -> evicted slots at break-even; None is left out.
    """
    ax = plt.gca() if ax is None else ax
    ax.plot(saved.step, saved.saved, color=COLOURS["head"], linewidth=1.2, label="slots saved")
    for (name, value), style in zip(even.items(), ("--", "-.", ":"), strict=False):
        if value is None:
            continue
        paid = break_even_length(saved, value)
        label = f"{name}: " + (f"paid after {paid:,} tokens" if paid else f"not paid in {len(saved):,} tokens")
        ax.axhline(value, color=FULL, linestyle=style, linewidth=1, label=label)
        if paid:
            ax.plot([paid], [value], marker="o", markersize=5, color=LINE, linestyle="none")
    ax.set(xlabel="reply length (tokens)", ylabel="slots per row at that step", xlim=(0, None), ylim=(0, None))
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    sns.despine(ax=ax)
    return ax


def accuracy_by_budget(frame: pd.DataFrame, *, full: float | None = None, ax: Axes | None = None) -> Axes:
    """Pass@1 against the budget, one line per score that decides what is kept.

    Args:
        frame: columns kind, budget_tokens, pass_at_1, lo, hi (percent).
        full: Pass@1 of the full cache, percent.
    """
    ax = plt.gca() if ax is None else ax
    for number, (kind, part) in enumerate(frame.groupby("kind", sort=False)):
        part = part.sort_values("budget_tokens")
        spread = np.clip([part.pass_at_1 - part.lo, part.hi - part.pass_at_1], 0, None)
        # a little apart, or the intervals of equal budgets would lie on each other
        shift = 0.004 * (number - 1) * frame.budget_tokens.max()
        ax.errorbar(
            part.budget_tokens + shift, part.pass_at_1, spread, marker="o", markersize=4, capsize=2, linewidth=1.5,
            elinewidth=0.9, color=COLOURS.get(kind), label=kind,
        )  # fmt: skip
    if full is not None:
        ax.axhline(full, color=FULL, linestyle="--", linewidth=1, label="full cache")
    ax.set(xlabel="KV budget (tokens)", ylabel="Pass@1 (%)", ylim=(-3, 104))
    ax.set_xticks(sorted(frame.budget_tokens.unique()))
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    sns.despine(ax=ax)
    return ax


def fidelity_by_budget(frame: pd.DataFrame, measure: str, *, ax: Axes | None = None) -> Axes:
    """One measure of teacher-forced fidelity against the budget, one line per kind of score.

    Args:
        frame: of `effect.fidelity_by_score`.
    """
    ax = plt.gca() if ax is None else ax
    names = {
        "agrees": "same most likely token (%)", "kl": "KL from the full cache (nats)",
        "answer_log_likelihood": "answer log-likelihood,\nminus the full cache's (nats)",
    }  # fmt: skip
    scale = 100 if measure == "agrees" else 1
    chosen = frame[frame.measure == measure]
    for number, (kind, part) in enumerate(chosen.groupby("kind", sort=False)):
        part = part.sort_values("budget_tokens")
        spread = scale * np.clip([part["mean"] - part.lo, part.hi - part["mean"]], 0, None)
        shift = 0.004 * (number - 1.5) * frame.budget_tokens.max()
        ax.errorbar(
            part.budget_tokens + shift, scale * part["mean"], spread, marker="o", markersize=4, capsize=2,
            linewidth=1.5, elinewidth=0.9, color=COLOURS.get(kind), label=kind,
        )  # fmt: skip
    ax.set(xlabel="KV budget (tokens)", ylabel=names[measure])
    ax.set_xticks(sorted(frame.budget_tokens.unique()))
    sns.despine(ax=ax)
    return ax
