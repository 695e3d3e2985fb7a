"""How well scores rank the thinking tokens of held-out traces, beside what needs no hidden state, with intervals."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...scores.statistics import bootstrap_interval
from ..dataset import Example

TOP_SHARE = 0.2
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
BASELINES = ("random", "position", "identity")
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
    from scipy.stats import kendalltau

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


def fit_baselines(train: Iterable[Example], seed: int = 0) -> dict[str, Scorer]:
    """What can be known without a hidden state, fitted on training traces.

    - `random`: uniform noise, keyed by the problem.
    - `position`: mean label rank by the place in the thought (`PLACE_BINS` bins). It is told how long the thought will
      be, which a predictor at decoding time does not know.
    - `identity`: mean label rank by token id; an unseen id gets the mean of all.

    Ranks within a trace, because raw labels of short traces would outweigh those of long ones.
    """
    by_bin, by_token = np.zeros((PLACE_BINS, 2)), {}
    for example in train:
        ranks = (example.labels.argsort().argsort().double() / max(1, len(example.labels) - 1)).numpy()
        bins = (example.relative_places * PLACE_BINS).long().numpy()
        np.add.at(by_bin, bins, np.stack([ranks, np.ones_like(ranks)], axis=1))
        for token, rank in zip(example.token_ids.tolist(), ranks, strict=True):
            total = by_token.setdefault(token, [0.0, 0])
            total[0] += rank
            total[1] += 1
    overall = by_bin[:, 0].sum() / max(1.0, by_bin[:, 1].sum())
    place_means = torch.tensor(np.where(by_bin[:, 1] > 0, by_bin[:, 0] / np.maximum(1, by_bin[:, 1]), overall))
    token_means = {token: total / count for token, (total, count) in by_token.items()}

    def random(example: Example) -> Tensor:
        key = int.from_bytes(hashlib.sha256(f"{seed}\x1f{example.problem_id}".encode()).digest()[:7], "big")
        return torch.rand(len(example.labels), generator=torch.Generator().manual_seed(key))

    def position(example: Example) -> Tensor:
        return place_means[(example.relative_places * PLACE_BINS).long()].float()

    def identity(example: Example) -> Tensor:
        return torch.tensor([token_means.get(token, overall) for token in example.token_ids.tolist()])

    return {"random": random, "position": position, "identity": identity}


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
    rows = []
    for name, part in frame.groupby("predictor", sort=False):
        for metric in metrics:
            rows.append({"predictor": name, "metric": metric, **bootstrap(part[metric])})
    return pd.DataFrame(rows)


def overlap_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Overlap of the predicted and the true top k %, by k: columns predictor, k_percent, mean, lo, hi, n_traces."""
    names = [f"overlap_{round(100 * share)}" for share in SHARES]
    table = summarise_scores(frame, names)
    return table.assign(k_percent=table.metric.str.removeprefix("overlap_").astype(int)).drop(columns="metric")


def lead_over(frame: pd.DataFrame, ours: str, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """By how much `ours` beats every other scorer on the same traces: paired differences with 95 % intervals."""
    own = frame[frame.predictor == ours].set_index("problem_id")
    rows = []
    for name, part in frame[frame.predictor != ours].groupby("predictor", sort=False):
        other = part.set_index("problem_id").loc[own.index]
        for metric in metrics:
            rows.append({"over": name, "metric": metric, **bootstrap(own[metric] - other[metric])})
    return pd.DataFrame(rows)


def bootstrap(values: Sequence[float], seed: int = 0) -> dict[str, float]:
    """`mean`, `lo`, `hi` (percentile bootstrap over traces, 95 %) and `n_traces`; one trace has no interval."""
    array = np.asarray(values, dtype=float)
    if len(array) < 2:
        return {"mean": float(array.mean()), "lo": float("nan"), "hi": float("nan"), "n_traces": len(array)}
    found = bootstrap_interval(array, seed=seed)
    return {"mean": found.estimate, "lo": found.lo, "hi": found.hi, "n_traces": len(array)}
