"""Torch twins of the scoring kernels: attention of remembered queries, and redundancy of keys."""

from __future__ import annotations

import torch
from torch import Tensor

# how the query heads of one KV head become one: before the softmax (R-KV), or after it (G-KV, VaSE)
GROUP_REDUCTIONS = ("max_logits", "max", "mean")

# similarities held at once by `key_redundancy`: 64 MiB in float32
SIMILARITY_BLOCK = 2**24


def window_scores(
    queries: Tensor, keys: Tensor, hidden: Tensor | None, weights: Tensor, scaling: float, group: str = "mean"
) -> Tensor:
    """Attention that the last `w` queries pay to each slot, reduced over query group and queries.

    Args:
        queries: `[N, H, G, w, D]`, rotated.
        keys: `[N, H, S, D]`, rotated.
        hidden: bool, broadcast to `[N, H, w, S]`: slots that a query does not see; None when it sees all.
        weights: `[N, w]` float32, factor of each query in the sum: 1 / w for a mean, 0 for a query that is not there.
        scaling: factor on the dot products, usually `D ** -0.5`.
        group: `max_logits` (max over the group of the logits, then softmax), `max` or `mean` (after the softmax).

    Returns:
        `[N, H, S]` float32.

    Source: METHODS.md sections 2.6, 2.7, 2.10, 2.12.
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


def key_redundancy(keys: Tensor, threshold: float = 0.5, *, spare_first: bool = True) -> Tensor:
    """R-KV's redundancy before its softmax: how similar each key is, on average, to the others.

    `C[i, j] = cos(k_i, k_j)` with a zero diagonal; for each row i the most recent j with `C[i, j] > threshold` is
    set to 0; the column mean over all n rows is returned. No n x n matrix exists: rows are taken in blocks.

    Args:
        keys: `[N, n, D]`.
        threshold: cosine above which a key counts as similar.
        spare_first: a row without a similar key zeroes column 0, as the original code does; False leaves it alone.

    Returns:
        `[N, n]` float32.

    Source: R-KV, arXiv 2505.24133, `rkv/utils.py`; METHODS.md section 2.7.
    """
    count, n, _ = keys.shape
    unit = torch.nn.functional.normalize(keys.float(), dim=-1)
    columns = torch.arange(n, device=keys.device, dtype=torch.int32)
    total = torch.zeros(count, n, device=keys.device)
    rows = max(1, SIMILARITY_BLOCK // max(1, count * n))
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        similarity = torch.bmm(unit[:, start:stop], unit.transpose(1, 2))
        similarity[:, columns[: stop - start].long(), columns[start:stop].long()] = 0.0
        similar = similarity > threshold
        last = (similar * columns).amax(-1, keepdim=True).long()
        if not spare_first:
            # where nothing is similar, point at the diagonal, which is 0 already
            none = ~similar.any(-1, keepdim=True)
            last = torch.where(none, columns[start:stop, None].long(), last)
        similarity.scatter_(-1, last, 0.0)
        total += similarity.sum(1)
    return total / n
