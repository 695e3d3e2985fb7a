"""The loss of the importance predictor: weighted squared error, and a ranking loss that never holds all pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .recipe import PredictorRecipe

PAIR_CHUNK = 2**22  # pairs whose terms are held at once: a few arrays of 16 MiB


def emphasis_weights(labels: Tensor, emphasis: tuple[float, float, float] | None) -> Tensor:
    """`[n]`: `weight` where `low <= label < high`, else 1. Source: DynTS; docs/predictor.md#loss."""
    weights = torch.ones_like(labels)
    if emphasis is not None:
        low, high, weight = emphasis
        weights[(labels >= low) & (labels < high)] = weight
    return weights


def weighted_mse(predicted: Tensor, labels: Tensor, emphasis: tuple[float, float, float] | None = None) -> Tensor:
    """`sum w (p - y)^2 / n` over a batch; the denominator counts tokens, not weights (docs/predictor.md#loss)."""
    return (emphasis_weights(labels, emphasis) * (predicted - labels) ** 2).sum() / labels.numel()


class _PairwiseLoss(torch.autograd.Function):
    """Mean over pairs of `softplus(-sign(y_i - y_j) (p_i - p_j) / tau)`; the gradient is summed up on the way.

    Autograd would keep every pair for the way back; here only a gradient of the length of the trace is kept.
    """

    @staticmethod
    def forward(context, predicted: Tensor, labels: Tensor, tau: float) -> Tensor:
        n = len(labels)
        p, gradient = predicted.detach().float(), torch.zeros(n, device=labels.device)
        total, n_pairs = torch.zeros((), dtype=torch.float64, device=labels.device), 0
        n_rows = max(1, PAIR_CHUNK // n)
        for start in range(0, n, n_rows):
            rows = torch.arange(start, min(start + n_rows, n), device=labels.device)
            sign = (labels[rows, None] - labels[None, start:]).sign()
            sign = sign.float().triu(1)  # row r of the chunk is column r: only j > i counts
            margin = -sign * (p[rows, None] - p[None, start:]) / tau
            counted = sign != 0
            total += torch.nn.functional.softplus(margin[counted]).double().sum()
            n_pairs += int(counted.sum())
            slope = -sign * margin.sigmoid() / tau
            gradient[rows] += slope.sum(1)
            gradient[start:] -= slope.sum(0)
        n_pairs = max(1, n_pairs)
        context.save_for_backward(gradient / n_pairs)
        context.dtype = predicted.dtype
        return (total / n_pairs).float()

    @staticmethod
    def backward(context, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = context.saved_tensors
        return (upstream * gradient).to(context.dtype), None, None


class _DrawnPairsLoss(torch.autograd.Function):
    """Sum of `share * term` over given pairs; the gradient is added up directly, three times as fast as autograd's."""

    @staticmethod
    def forward(context, predicted: Tensor, sign: Tensor, share: Tensor, tau: float, first: Tensor, second: Tensor):
        p = predicted.detach().float()
        margin = sign * (p[second] - p[first]) / tau
        slope = -sign * share * margin.sigmoid() / tau
        gradient = torch.zeros_like(p).index_add_(0, first, slope).index_add_(0, second, slope, alpha=-1)
        context.save_for_backward(gradient)
        context.dtype = predicted.dtype
        return (torch.nn.functional.softplus(margin) * share).sum()

    @staticmethod
    def backward(context, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = context.saved_tensors
        return (upstream * gradient).to(context.dtype), None, None, None, None, None


def _drawn_loss(
    predicted: Tensor, labels: Tensor, lengths: Sequence[int], tau: float, pairs: int, generator: torch.Generator | None
) -> Tensor:  # fmt: skip
    """Mean over traces of the mean over `pairs` drawn pairs, all traces in one go.

    Args:
        predicted, labels: `[sum of lengths]`, traces one after the other.
    """
    first, second, start = [], [], 0
    for n in lengths:
        drawn = torch.randint(n, (pairs,), generator=generator)
        first.append(drawn + start)
        # an offset of 1 .. n-1 never pairs a token with itself; the only token of a trace has but itself
        second.append((drawn + torch.randint(1, max(2, n), (pairs,), generator=generator)) % n + start)
        start += n
    one, other = torch.cat(first).to(labels.device), torch.cat(second).to(labels.device)
    sign = (labels[one] - labels[other]).sign().float()
    # pairs of equal labels do not count; the others share their trace's weight
    counted = sign.abs().view(len(lengths), pairs)
    share = (counted / counted.sum(1, keepdim=True).clamp(min=1) / len(lengths)).flatten()
    return _DrawnPairsLoss.apply(predicted, sign, share, tau, one, other)


def pairwise_loss(
    predicted: Tensor, labels: Tensor, tau: float = 0.5, pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Smooth Kendall loss of one trace, pairs of equal labels left out; 0 where no pair is left.

    Source: DynTS `verl_sft_fsdp.py` (`ktl`); docs/predictor.md#loss.
    Deviates: the published code holds all n x n pairs of a batch; here they are summed in chunks, or `pairs` of them
    are drawn with replacement, which estimates the same mean.

    Args:
        predicted, labels: `[n]`.
        pairs: how many pairs to draw; None for all.
        generator: of the draw.
    """
    n = len(labels)
    if pairs is None or pairs >= n * (n - 1) // 2:
        return _PairwiseLoss.apply(predicted, labels, tau)
    return _drawn_loss(predicted, labels, [n], tau, pairs, generator)


def batch_loss(
    predicted: list[Tensor], labels: list[Tensor], recipe: PredictorRecipe, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """`alpha * MSE + (1 - alpha) * ranking` of a batch of traces.

    Args:
        predicted, labels: one `[n]` per trace; mapped labels.

    Returns:
        `loss`, `mse` and `ranking` (mean over traces; 0 where alpha is 1 and it is not computed).
    """
    every, truth, lengths = torch.cat(predicted), torch.cat(labels), [len(y) for y in labels]
    mse = weighted_mse(every, truth, recipe.emphasis)
    ranking = torch.zeros((), device=mse.device)
    if recipe.alpha < 1 and recipe.pairs is not None and recipe.pairs < min(n * (n - 1) // 2 for n in lengths):
        ranking = _drawn_loss(every, truth, lengths, recipe.tau, recipe.pairs, generator)
    elif recipe.alpha < 1:
        each = [
            pairwise_loss(p, y, recipe.tau, recipe.pairs, generator) for p, y in zip(predicted, labels, strict=True)
        ]
        ranking = torch.stack(each).mean()
    return {"loss": recipe.alpha * mse + (1 - recipe.alpha) * ranking, "mse": mse, "ranking": ranking}
