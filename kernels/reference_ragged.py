"""Torch twins of the scoring kernels over rows of different length: window attention and key redundancy."""

from __future__ import annotations

import torch
from torch import Tensor

from .reference_steps import live_slots


def window_scores(
    queries: Tensor, keys: Tensor, valid: Tensor | None, scaling: float, *, group: str = "max_logits",
    lengths: Tensor | None = None,
) -> Tensor:  # fmt: skip
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
