"""How well scores rank the thinking tokens of held-out traces, beside what needs no hidden state, with intervals."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import kendalltau
from torch import Tensor

from ...scores.statistics import bootstrap_interval
from ..dataset import Example

TOP_SHARE = 0.2
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
PLACE_BINS = 40
METRICS = ("kendall_tau", "top20_overlap", "top20_mass_found")

Scorer = Callable[[Example], Tensor]


def rank_metrics(predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """Metrics of one trace.

    Args:
        predicted, labels: `[n]`; labels raw or mapped by anything monotone, except for the mass, which is of the raw.

    Returns:
        `kendall_tau` (tau-b; 0 where either side is constant), `overlap_<percent>` (share of the true top found in the
        predicted top of the same size), `top20_overlap` and `top20_mass_found` (label mass of the predicted top 20 %
        over that of the true one).
    """
    predicted, labels = predicted.float().cpu(), labels.float().cpu()
    tau = float(kendalltau(predicted.numpy(), labels.numpy()).statistic)
    metrics = {"kendall_tau": 0.0 if np.isnan(tau) else tau}
    # a stable order: ties go to the earlier token, as in an eviction
    guess, truth = (x.sort(descending=True, stable=True).indices for x in (predicted, labels))
    for share in SHARES:
        k = top_count(share, len(labels))
        metrics[f"overlap_{round(100 * share)}"] = len(set(guess[:k].tolist()) & set(truth[:k].tolist())) / k
    k = top_count(TOP_SHARE, len(labels))
    metrics["top20_overlap"] = metrics["overlap_20"]
    metrics["top20_mass_found"] = float(labels[guess[:k]].sum() / labels[truth[:k]].sum().clamp(min=1e-30))
    return metrics


def top_count(share: float, n_tokens: int) -> int:
    """Tokens in the top `share` of `n_tokens`, at least 1; the guard keeps 0.3 * 10 at 3."""
    return max(1, int(share * n_tokens + 1e-9))


def head_scorer(predictor) -> Scorer:
    """The predictions of a head."""

    @torch.inference_mode()
    def score(example: Example) -> Tensor:
        parameter = next(predictor.parameters())
        return predictor(example.hidden.to(parameter.device, parameter.dtype)).float().cpu()

    return score


def fit_baselines(train: Iterable[Example]) -> dict[str, Scorer]:
    """What can be known without a hidden state, fitted on training traces.

    - `random`: uniform noise, keyed by the problem.
    - `position`: mean label rank by the place in the thought (`PLACE_BINS` bins). It is told how long the thought will
      be, which a predictor at decoding time does not know.
    - `identity`: mean label rank by token id; an unseen id gets the mean of all.

    Ranks within a trace, because raw labels of short traces would outweigh those of long ones.
    """
    columns = [
        (_place_bins(e), e.token_ids, e.labels.argsort().argsort().double() / max(1, len(e.labels) - 1)) for e in train
    ]
    bins, tokens, ranks = (torch.cat(parts).numpy() for parts in zip(*columns, strict=True))
    overall = np.bincount(bins, ranks).sum() / len(ranks)
    by_place, by_token = _means(bins, ranks, PLACE_BINS, overall), _means(tokens, ranks, 0, overall)

    def random(example: Example) -> Tensor:
        return keyed_noise(f"0\x1f{example.problem_id}", len(example.labels))

    def position(example: Example) -> Tensor:
        return by_place[_place_bins(example)].float()

    def identity(example: Example) -> Tensor:
        # the last place stands for every id beyond those seen
        return by_token[example.token_ids.clamp(max=len(by_token) - 1)]

    return {"random": random, "position": position, "identity": identity}


def _means(keys: np.ndarray, ranks: np.ndarray, size: int, overall: float) -> Tensor:
    """Mean rank by key, `[max(size, largest key + 1) + 1]` float64; `overall` for keys that do not occur, and last."""
    counts, sums = (np.bincount(keys, weights, size) for weights in (None, ranks))
    return torch.from_numpy(np.append(np.where(counts > 0, sums / np.maximum(1, counts), overall), overall))


def _place_bins(example: Example) -> Tensor:
    return ((example.places - example.thinking_from).float() / example.n_thinking * PLACE_BINS).long()


def keyed_noise(key: str, n: int) -> Tensor:
    """Uniform noise `[n]` that depends on `key` alone."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
    return torch.rand(n, generator=torch.Generator().manual_seed(seed))


def score_traces(scorers: dict[str, Scorer], examples: Iterable[Example]) -> pd.DataFrame:
    """One row per scorer and trace: `predictor`, `problem_id` and the metrics of `rank_metrics`."""
    rows = [
        {"predictor": name, "problem_id": example.problem_id, **rank_metrics(scorer(example), example.labels)}
        for example in examples
        for name, scorer in scorers.items()
    ]
    return pd.DataFrame(rows)


def summarise_scores(frame: pd.DataFrame, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Mean and 95 % bootstrap interval over traces: columns predictor, metric, mean, lo, hi, n_traces."""
    parts = frame.groupby("predictor", sort=False)
    return pd.DataFrame([{"predictor": n, "metric": m, **bootstrap(part[m])} for n, part in parts for m in metrics])


def overlap_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Overlap of the predicted and the true top k %, by k: columns predictor, k_percent, mean, lo, hi, n_traces."""
    table = summarise_scores(frame, [f"overlap_{round(100 * share)}" for share in SHARES])
    return table.assign(k_percent=table.metric.str.removeprefix("overlap_").astype(int)).drop(columns="metric")


def lead_over(frame: pd.DataFrame, ours: str) -> pd.DataFrame:
    """By how much `ours` beats every other scorer on the same traces: paired differences with 95 % intervals."""
    own = frame[frame.predictor == ours].set_index("problem_id")
    rows = []
    for name, part in frame[frame.predictor != ours].groupby("predictor", sort=False):
        other = part.set_index("problem_id").loc[own.index]
        rows += [{"over": name, "metric": metric, **bootstrap(own[metric] - other[metric])} for metric in METRICS]
    return pd.DataFrame(rows)


def ranking_sentences(frame: pd.DataFrame, ours: str) -> list[str]:
    """What the ranking by `ours` is worth on held-out traces, and its lead over the best of the others.

    Args:
        frame: of `score_traces`.
    """
    tau, overlap, mass = (bootstrap(frame[frame.predictor == ours][metric]) for metric in METRICS)
    found = [
        f"On {tau['n_traces']} held-out traces the {ours} orders the thinking tokens with a Kendall tau of "
        f"{_spread(tau)} with the true order: it puts the more attended of two tokens first in about "
        f"{50 * (1 + tau['mean']):.0f} of 100 pairs (50 by chance).",
        f"It finds {_spread(overlap, 100)} % of the true top 20 %; what it takes for the top 20 % carries "
        f"{_spread(mass, 100)} % of the attention that the true ones carry.",
    ]
    others = frame[frame.predictor != ours]
    if others.empty:
        return found
    best = others.groupby("predictor").kendall_tau.mean().idxmax()
    lead = lead_over(frame, ours).set_index(["over", "metric"]).loc[(best, METRICS[0])]
    if lead.lo > 0:
        return [*found, f"It beats the best score without a hidden state ({best}) by a tau of {_spread(lead)}."]
    return [*found, f"It is not told from the best score without a hidden state ({best}): {_spread(lead)} in tau."]


def recipe_sentence(compared: pd.DataFrame) -> str:
    """Which recipe orders held-out tokens best, and which others its interval does not leave behind.

    Args:
        compared: of `pipeline.compare_recipes`.
    """
    taus = compared[compared.metric == METRICS[0]].sort_values("mean", ascending=False)
    best, last = taus.iloc[0], taus.iloc[-1]
    near = taus.recipe[1:][taus.hi[1:] >= best.lo]
    others = f"; intervals overlap with {', '.join(near)}" if len(near) else ""
    return (
        f"Of {len(taus)} recipes {best.recipe} has the highest Kendall tau, {_spread(best)}{others}; {last.recipe} has "
        f"the lowest, {_spread(last)}."
    )


def _spread(values, factor: float = 1.0) -> str:
    mean, lo, hi = (factor * values[name] for name in ("mean", "lo", "hi"))
    digits = 1 if factor == 100 else 3
    return f"{mean:.{digits}f} [{lo:.{digits}f}, {hi:.{digits}f}]"


def bootstrap(values: Sequence[float]) -> dict[str, float]:
    """`mean`, `lo`, `hi` (95 % bootstrap over traces) and `n_traces`; one trace has no interval, none no mean."""
    array = np.asarray(values, dtype=float)
    if len(array) < 2:
        return {"mean": array[0] if len(array) else np.nan, "lo": np.nan, "hi": np.nan, "n_traces": len(array)}
    mean = bootstrap_interval(array)
    return {"mean": mean.estimate, "lo": mean.lo, "hi": mean.hi, "n_traces": len(array)}
