"""Figures of the predictor and of the observations behind it: tidy frames in, Axes out."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from .theme import BAR_EDGE, BEST, FULL, LINE, NOTE, PAGE, finish, interval_lines, spread

_OURS, _OTHER = BEST, "#3f8f4f"
COLOURS = (
    dict.fromkeys(("head", "dynts", "top"), _OURS)
    | dict.fromkeys(("identity", "predicted top", "dynts, oracle labels"), _OTHER)
    | dict.fromkeys(("bottom", "dynts, untrained head"), LINE)
    | {"position": "#8a6bb8", "random": NOTE}
)
_NAMES = {"identity": "token identity", "position": "position in the thought", "head": "predictor"}
_FIDELITY_LABELS = {
    "agrees": "same most likely token (%)",
    "kl": "KL from the full cache (nats)",
    "answer_log_likelihood": "answer log-likelihood,\nminus the full cache's (nats)",
}
_METRIC_LABELS = {"kendall_tau": "Kendall tau", "top20_overlap": "top-20 % overlap (fraction)"}
# of the accounts that say how many evicted slots pay for the head
_ACCOUNT_STYLES = ("--", "-.", ":")


def sorted_curve(frame: pd.DataFrame, *, share: float = 0.2, tokens: str = "thinking tokens", ax: Axes) -> Axes:
    """Attention on the most attended thinking tokens, cumulated (`observations.sorted_share_curve`).

    Args:
        tokens: what stands in for the thought, where a model does not think.
    """
    # nothing of the thought holds nothing of the attention
    percent = 100 * pd.concat([frame.iloc[:1] * 0, frame], ignore_index=True)
    ax.fill_between(percent.share, percent.mass_lo, percent.mass_hi, color=BAR_EDGE, alpha=0.35, linewidth=0)
    ax.plot(percent.share, percent.mass_mean, color=COLOURS["head"], label="mean over traces, 95 % interval")
    ax.plot([0, 100], [0, 100], color=FULL, linestyle=":", linewidth=1, label="attention spread evenly")
    top = 100 * share
    mass = float(np.interp(top, percent.share, percent.mass_mean))
    ax.plot([top, top, 0], [0, mass, mass], color=LINE, linewidth=1, linestyle="--")
    outlined = {"size": 9, "color": LINE, "path_effects": [withStroke(linewidth=3, foreground="white")]}
    beside = {"xytext": (8, -11), "textcoords": "offset points"}
    ax.annotate(f"top {round(top)} %: {mass:.1f} %", (top, mass), **beside, **outlined)
    names = {"xlabel": f"{tokens}, most attended first (%)", "ylabel": "attention on them (%)"}
    return finish(ax, "lower right", **names, xlim=(0, 100), ylim=(0, 100))


def head_map(shares, *, part: str = "thought", ax: Axes) -> Axes:
    """Percent of every head's answer attention that lies on the thought (`observations.head_shares`, `[L, Hq]`).

    Args:
        part: what stands in for the thought, where a model does not think.
    """
    values, bar = 100 * np.asarray(shares), {"label": f"on the {part} (%)"}
    sns.heatmap(values, annot=values.size <= 60, fmt=".0f", cmap="OrRd", vmin=0, vmax=100, ax=ax, cbar_kws=bar)
    ax.set(xlabel="query head", ylabel="layer")
    return ax


def kept_part_accuracy(frame: pd.DataFrame, *, full: float, ax: Axes) -> Axes:
    """Accuracy against the kept part of the thought, one line per choice (`kept_thoughts.accuracy_by_part`).

    Args:
        frame: columns choice, share, accuracy, lo, hi.
        full: accuracy with the whole thought, percent.
    """
    known = ["top", "predicted top", "random", "bottom"]
    order = [*known, *sorted(set(frame.choice) - set(known))]
    shown = frame.assign(percent=100 * frame.share).sort_values("choice", key=lambda c: c.map(order.index))
    interval_lines(shown, "percent", "accuracy", "choice", ax=ax, colours=COLOURS, apart=0.7)
    ax.axhline(full, color=FULL, linestyle="--", linewidth=1, label="whole thought")
    names = {"xlabel": "part of the thought kept before </think> (%)", "ylabel": "correct answers (%)"}
    return finish(ax, "beside", **names, ylim=(-3, 104))


def training_curves(log: pd.DataFrame) -> tuple[Axes, Axes]:
    """Loss on training and held-out traces, and held-out ranking, by epoch (`log.csv` of a head)."""
    _, (loss, ranking) = plt.subplots(1, 2, figsize=(PAGE, 2.9), layout="constrained")
    loss.plot(log.epoch, log.train_mse, color=COLOURS["head"], marker=".", label="training")
    loss.plot(log.epoch, log.held_out_mse, color=LINE, marker=".", label="held out")
    ranking.plot(log.epoch, log.held_out_kendall_tau, color=COLOURS["head"], marker=".", label="Kendall tau")
    ranking.plot(log.epoch, log.held_out_top20_overlap, color=LINE, marker=".", label="top-20 % overlap")
    finish(loss, "best", xlabel="epoch", ylabel="squared error (mapped label²)", yscale="log")
    finish(ranking, "lower right", xlabel="epoch", ylabel="on held-out traces", ylim=(0, 1))
    for ax in (loss, ranking):
        ax.xaxis.get_major_locator().set_params(integer=True)
    return loss, ranking


def overlap_by_k(frame: pd.DataFrame, *, ax: Axes) -> Axes:
    """Share of the true top k % found in the predicted top k %, by k and predictor; bars are 95 % intervals.

    Args:
        frame: columns predictor, k_percent, mean, lo, hi (fractions).
    """
    shown = frame.assign(**100 * frame[["mean", "lo", "hi"]])
    interval_lines(shown, "k_percent", "mean", "predictor", ax=ax, colours=COLOURS, labels=_NAMES)
    names = {"xlabel": "k (% of the thinking tokens)", "ylabel": "overlap of the top k % (%)"}
    return finish(ax, "beside", **names, ylim=(0, 100))


def predicted_and_true(frame: pd.DataFrame, *, ax: Axes) -> Axes:
    """Predicted against true mapped label of every thinking token of one trace, the true top 20 % marked.

    Args:
        frame: columns true, predicted, is_top.
    """
    palette = {"others": BAR_EDGE, "true top 20 %": LINE}
    shown = frame.assign(part=np.where(frame.is_top, "true top 20 %", "others"))
    style = {"s": 11, "alpha": 0.75, "linewidth": 0}
    sns.scatterplot(
        shown, x="true", y="predicted", hue="part", hue_order=list(palette), palette=palette, ax=ax, **style
    )
    ends = [shown[["true", "predicted"]].min().min(), shown[["true", "predicted"]].max().max()]
    ax.plot(ends, ends, color=FULL, linestyle=":", linewidth=1)
    return finish(ax, "upper left", xlabel="true label (mapped)", ylabel="predicted")


def recipe_comparison(frame: pd.DataFrame, *, metric: str, ax: Axes) -> Axes:
    """One metric for several recipes, mean and 95 % interval over held-out traces.

    Args:
        frame: columns recipe, metric, mean, lo, hi.
    """
    part = frame[frame.metric == metric]
    places = np.arange(len(part))[::-1]
    ax.errorbar(part["mean"], places, xerr=spread(part, "mean"), fmt="o", capsize=3, color=COLOURS["head"])
    ax.set_yticks(places, part.recipe)
    ax.grid(axis="x", color="0.9")
    return finish(ax, xlabel=_METRIC_LABELS.get(metric, metric), ylim=(-0.6, len(part) - 0.4))


def cost_of_the_head(costs: pd.DataFrame, even: dict[str, float | None], *, ax: Axes) -> Axes:
    """Step time against cached slots, the head on top of it, and the numbers of slots that pay for the head.

    Args:
        costs: of `head_cost.step_costs`.
        even: name of an account -> evicted slots at break-even; None is left out.
    """
    dots = {"marker": "o", "markersize": 4}
    ax.plot(costs.slots, 1e3 * costs.step_s, color=COLOURS["head"], label="decode step", **dots)
    ax.plot(costs.slots, 1e3 * (costs.step_s + costs.head_s), color=LINE, label="decode step + head", **dots)
    for (name, value), style in zip(even.items(), _ACCOUNT_STYLES, strict=False):
        if value is not None:
            ax.axvline(value, color=FULL, linestyle=style, linewidth=1, label=f"{name}: {value:,.0f} slots")
    names = {"xlabel": "cached slots per row", "ylabel": f"milliseconds per step, {costs.rows.iloc[0]} rows"}
    return finish(ax, "beside", **names, xlim=(0, None), ylim=(0, None))


def break_even_lengths(saved: pd.DataFrame, even: dict[str, float | None], *, ax: Axes) -> Axes:
    """Slots saved at every step of a reply, what the head costs in slots, and the lengths at which it has paid.

    Args:
        saved: of `head_cost.saved_slots`.
        even: name of an account -> evicted slots at break-even; None is left out.
    """
    from ..bench.head_cost import break_even_length

    ax.plot(saved.step, saved.saved, color=COLOURS["head"], linewidth=1.2, label="slots saved")
    for (name, value), style in zip(even.items(), _ACCOUNT_STYLES, strict=False):
        if value is None:
            continue
        paid = break_even_length(saved, value)
        label = f"{name}: " + (f"paid after {paid:,} tokens" if paid else f"not paid in {len(saved):,} tokens")
        ax.axhline(value, color=FULL, linestyle=style, linewidth=1, label=label)
        if paid:
            ax.plot([paid], [value], marker="o", markersize=5, color=LINE, linestyle="none")
    names = {"xlabel": "reply length (tokens)", "ylabel": "slots per row at that step"}
    return finish(ax, "beside", **names, xlim=(0, None), ylim=(0, None))


def accuracy_by_budget(frame: pd.DataFrame, *, full: float, ax: Axes) -> Axes:
    """Pass@1 against the budget, one line per score that decides what is kept.

    Args:
        frame: columns kind, budget_tokens, pass_at_1, lo, hi (percent).
        full: Pass@1 of the full cache, percent.
    """
    _lines_by_budget(frame, "pass_at_1", ax)
    ax.axhline(full, color=FULL, linestyle="--", linewidth=1, label="full cache")
    return finish(ax, "beside", ylabel="Pass@1 (%)", ylim=(-3, 104))


def fidelity_by_budget(frame: pd.DataFrame, measure: str, *, ax: Axes) -> Axes:
    """One measure of teacher-forced fidelity against the budget, one line per kind of score.

    Args:
        frame: of `predictor_effect.fidelity_by_score`.
    """
    shown = frame[frame.measure == measure]
    if measure == "agrees":
        shown = shown.assign(**100 * shown[["mean", "lo", "hi"]])
    _lines_by_budget(shown, "mean", ax)
    return finish(ax, ylabel=_FIDELITY_LABELS[measure])


def _lines_by_budget(frame: pd.DataFrame, y: str, ax: Axes) -> None:
    apart = 0.004 * frame.budget_tokens.max()
    interval_lines(frame, "budget_tokens", y, "kind", ax=ax, colours=COLOURS, apart=apart)
    ax.set_xlabel("KV budget (tokens)")
    ax.set_xticks(sorted(frame.budget_tokens.unique()))
