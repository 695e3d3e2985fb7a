"""Twins of the scoring kernels: attention of remembered queries, and redundancy of keys."""

from __future__ import annotations

import torch
from torch import Tensor

from .attention import live_slots

# how the query heads of one KV head become one: before the softmax (R-KV), or after it (G-KV, VaSE)
GROUP_REDUCTIONS = ("max_logits", "max", "mean")

# similarities held at once by `blocked_key_redundancy`: 64 MiB in float32
SIMILARITY_BLOCK = 2**24


def window_scores(
    queries: Tensor,
    keys: Tensor,
    valid: Tensor | None,
    scaling: float,
    *,
    group: str = "max_logits",
    lengths: Tensor | None = None,
) -> Tensor:
    """As `kvrepro.kernels.window_scores.window_scores`.

    `queries` `[R, Hq, w, D]`, `keys` `[R, H, n, D]`, `valid` `[R, w]` bool or None, `lengths` `[R]` or None;
    returns `[R, H, n]` float32.
    """
    rows, q_heads, window, size = queries.shape
    kv_heads, span = keys.shape[1], keys.shape[2]
    live = live_slots(lengths, rows, span, keys.device)
    if valid is None:
        valid = torch.ones(rows, window, dtype=torch.bool, device=keys.device)
    queries = torch.where(valid[:, None, :, None], queries, 0).float()
    keys = torch.where(live[:, None, :, None], keys, 0).float()
    grouped = queries.view(rows, kv_heads, q_heads // kv_heads, window, size)
    logits = torch.einsum("rhgwd,rhnd->rhgwn", grouped, keys) * scaling
    if group == "max_logits":
        logits = logits.amax(2, keepdim=True)
    weights = logits.masked_fill(~live[:, None, None, None], -torch.inf).softmax(-1).nan_to_num(0.0)
    weights = weights.amax(2) if group == "max" else weights.mean(2)
    weights = torch.where(valid[:, None, :, None], weights, 0)
    return weights.sum(2) / valid.sum(-1).clamp(min=1)[:, None, None]


def weighted_window_scores(
    queries: Tensor, keys: Tensor, hidden: Tensor | None, weights: Tensor, scaling: float, group: str = "mean"
) -> Tensor:
    """Attention that the last `w` queries pay to each slot, reduced over query group and queries.

    The form of `window_scores` for rows of equal length, with any mask and weights.

    Args:
        queries: `[N, H, G, w, D]`, rotated.
        keys: `[N, H, S, D]`, rotated.
        hidden: bool, broadcast to `[N, H, w, S]`: slots that a query does not see; None when it sees all.
        weights: `[N, w]` float32, factor of each query in the sum: 1 / w for a mean, 0 for a query that is not there.
        scaling: factor on the dot products, usually `D ** -0.5`.
        group: `max_logits` (max over the group of the logits, then softmax), `max` or `mean` (after the softmax).

    Returns:
        `[N, H, S]` float32.

    Source: docs/methods.md#query-windows, whose sections of SnapKV, R-KV, VaSE and G-KV name the papers.
    """
    if group not in GROUP_REDUCTIONS:
        raise ValueError(f"group={group!r}: known are {', '.join(GROUP_REDUCTIONS)}")
    logits = torch.matmul(queries.float().flatten(2, 3), keys.float().transpose(-1, -2)).unflatten(
        2, queries.shape[2:4]
    )
    logits = logits * scaling
    if group == "max_logits":
        logits = logits.amax(2, keepdim=True)
    if hidden is not None:
        logits = logits.masked_fill(hidden[:, :, None], float("-inf"))
    # a query that sees nothing has no attention; its row would be NaN
    attention = torch.nan_to_num(logits.softmax(-1))
    reduced = attention.amax(2) if group == "max" else attention.mean(2)
    return (reduced * weights[:, None, :, None]).sum(2)


def key_redundancy(keys: Tensor, threshold: float = 0.5, *, lengths: Tensor | None = None, block: int = 1024) -> Tensor:
    """As `kvrepro.kernels.key_redundancy.key_redundancy`: `keys` `[R, H, n, D]`; returns `[R, H, n]` float32.

    Written from the definition, in blocks of rows: the largest temporary is `[R, H, block, n]`.
    """
    rows, heads, span, _ = keys.shape
    live = live_slots(lengths, rows, span, keys.device)[:, None]
    unit = torch.where(live[..., None], keys, 0).float()
    unit = unit / unit.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    place = torch.arange(span, device=keys.device)
    total = torch.zeros(rows, heads, span, device=keys.device)
    for start in range(0, span, block):
        own = place[start : start + block, None]
        cosine = (unit[:, :, start : start + block] @ unit.transpose(-1, -2)).masked_fill_(own == place, 0)
        latest = torch.where(cosine > threshold, place, -1).amax(-1, keepdim=True)
        # a row without a similar key exempts slot 0, as the published code does
        cosine.scatter_(-1, latest.clamp(min=0), 0)
        total += torch.where(live[..., start : start + block, None], cosine, 0).sum(2)
    count = live.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(live, total / count, 0)


def blocked_key_redundancy(keys: Tensor, threshold: float = 0.5, *, spare_first: bool = True) -> Tensor:
    """R-KV's redundancy before its softmax: how similar each key is, on average, to the others.

    `C[i, j] = cos(k_i, k_j)` with a zero diagonal; for each row i the most recent j with `C[i, j] > threshold` is
    set to 0; the column mean over all n rows is returned. No n x n matrix exists: rows are taken in blocks.
    The faster form of `key_redundancy`, for rows of equal length.

    Args:
        keys: `[N, n, D]`.
        threshold: cosine above which a key counts as similar.
        spare_first: a row without a similar key zeroes column 0, as the original code does; False leaves it alone.

    Returns:
        `[N, n]` float32.

    Source: R-KV, arXiv 2505.24133, `rkv/utils.py`; docs/methods.md#redundancy.
    """
    count, n, _ = keys.shape
    unit = torch.nn.functional.normalize(keys.float(), dim=-1)
    columns = torch.arange(n, device=keys.device, dtype=torch.float32)
    # the column sums need no matrix; only what is set to 0 has to be found, and taken off again
    total = torch.matmul(unit, unit.sum(1)[..., None])[..., 0] - unit.square().sum(-1)
    rows = max(1, SIMILARITY_BLOCK // max(1, count * n))
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        similarity = torch.bmm(unit[:, start:stop], unit.transpose(1, 2))
        similarity.diagonal(offset=start, dim1=1, dim2=2).fill_(0.0)
        last = torch.where(similarity > threshold, columns, 0.0).amax(-1, keepdim=True).long()
        spared = similarity.gather(-1, last)
        if not spare_first:
            # a row in which nothing is similar points at column 0, too
            spared = spared * (spared > threshold)
        total.scatter_add_(1, last[..., 0], -spared[..., 0])
    return total / n
