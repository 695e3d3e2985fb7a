"""The loss of the importance predictor: weighted squared error, and a ranking loss that never holds all pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

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


def _with_gradient(value: Tensor, predicted: Tensor, gradient: Tensor) -> Tensor:
    """`value` with this gradient `[n]`, summed up along with it: autograd would keep every pair for the way back."""
    inner = (predicted * gradient).sum()
    return value + (inner - inner.detach())


def _all_pairs_loss(predicted: Tensor, labels: Tensor, tau: float) -> Tensor:
    """Mean over pairs of `softplus(-sign(y_i - y_j) (p_i - p_j) / tau)`, a chunk of rows at a time."""
    n = len(labels)
    p, gradient = predicted.detach().float(), torch.zeros(n, device=labels.device)
    total, n_pairs = torch.zeros((), dtype=torch.float64, device=labels.device), 0
    n_rows = max(1, PAIR_CHUNK // n)
    for start in range(0, n, n_rows):
        rows = torch.arange(start, min(start + n_rows, n), device=labels.device)
        # row r of the chunk is column r: only j > i counts
        sign = (labels[rows, None] - labels[None, start:]).sign().float().triu(1)
        margin = -sign * (p[rows, None] - p[None, start:]) / tau
        counted = sign != 0
        total += softplus(margin[counted]).double().sum()
        n_pairs += int(counted.sum())
        slope = -sign * margin.sigmoid() / tau
        gradient[rows] += slope.sum(1)
        gradient[start:] -= slope.sum(0)
    n_pairs = max(1, n_pairs)
    return _with_gradient((total / n_pairs).float(), predicted, gradient / n_pairs)


def _drawn_pairs_loss(
    predicted: Tensor,
    labels: Tensor,
    lengths: Sequence[int],
    recipe: PredictorRecipe,
    generator: torch.Generator | None,
) -> Tensor:
    """Mean over traces of the mean over `recipe.pairs` drawn pairs, all traces in one go.

    Args:
        predicted, labels: `[sum of lengths]`, traces one after the other.
    """
    first, second, start = [], [], 0
    for n in lengths:
        drawn = torch.randint(n, (recipe.pairs,), generator=generator)
        first.append(drawn + start)
        # an offset of 1 .. n-1 never pairs a token with itself; the only token of a trace has but itself
        offset = torch.randint(1, max(2, n), (recipe.pairs,), generator=generator)
        second.append((drawn + offset) % n + start)
        start += n
    one, other = torch.cat(first).to(labels.device), torch.cat(second).to(labels.device)
    sign = (labels[one] - labels[other]).sign().float()
    # pairs of equal labels do not count; the others share their trace's weight
    counted = sign.abs().view(len(lengths), recipe.pairs)
    share = (counted / counted.sum(1, keepdim=True).clamp(min=1) / len(lengths)).flatten()
    p = predicted.detach().float()
    margin = sign * (p[other] - p[one]) / recipe.tau
    slope = -sign * share * margin.sigmoid() / recipe.tau
    # three times as fast as autograd's way back
    gradient = torch.zeros_like(p).index_add_(0, one, slope).index_add_(0, other, slope, alpha=-1)
    return _with_gradient((softplus(margin) * share).sum(), predicted, gradient)


def ranking_loss(
    predicted: Sequence[Tensor],
    labels: Sequence[Tensor],
    recipe: PredictorRecipe,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Smooth Kendall loss, mean over traces; pairs of equal labels are left out, and 0 where no pair is left.

    Source: DynTS `verl_sft_fsdp.py` (`ktl`); docs/predictor.md#loss.
    Deviates: the published code holds all n x n pairs of a batch; here they are summed in chunks, or `recipe.pairs` of
    a trace are drawn with replacement, which estimates the same mean.

    Args:
        predicted, labels: one `[n]` per trace.
        generator: of the draw.
    """
    lengths = [len(y) for y in labels]
    if recipe.pairs is not None and recipe.pairs < min(n * (n - 1) // 2 for n in lengths):
        return _drawn_pairs_loss(torch.cat(predicted), torch.cat(labels), lengths, recipe, generator)
    each = []
    for p, y in zip(predicted, labels, strict=True):
        if recipe.pairs is None or recipe.pairs >= len(y) * (len(y) - 1) // 2:
            each.append(_all_pairs_loss(p, y, recipe.tau))
        else:
            each.append(_drawn_pairs_loss(p, y, [len(y)], recipe, generator))
    return torch.stack(each).mean()


def batch_loss(
    predicted: Sequence[Tensor],
    labels: Sequence[Tensor],
    recipe: PredictorRecipe,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """`alpha * MSE + (1 - alpha) * ranking` of a batch of traces.

    Args:
        predicted, labels: one `[n]` per trace; mapped labels.

    Returns:
        `loss`, `mse` and `ranking` (0 where alpha is 1 and it is not computed).
    """
    mse = weighted_mse(torch.cat(predicted), torch.cat(labels), recipe.emphasis)
    ranking = torch.zeros((), device=mse.device)
    if recipe.alpha < 1:
        ranking = ranking_loss(predicted, labels, recipe, generator)
    return {"loss": recipe.alpha * mse + (1 - recipe.alpha) * ranking, "mse": mse, "ranking": ranking}
