"""What a method may want to know of a prompt's prefill: its last queries, and how much each token was attended."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

QUERY_BLOCK = 64  # queries whose attention is held at once


@dataclass(frozen=True)
class Prefill:
    """One prompt after its prefill.

    Attributes:
        token_ids: `[P]` int64.
        keys, values: `[L, H, P, D]`.
        logits: `[V]`, of the token that follows.
        queries: `[L, Hq, w, D]`, the last queries; None unless a method keeps queries.
        mass: `[L, H, G, P]` float32: attention that each token got, summed over the prompt's queries; None unless
            asked for.
    """

    token_ids: Tensor
    keys: Tensor
    values: Tensor
    logits: Tensor
    queries: Tensor | None = None
    mass: Tensor | None = None


@dataclass
class PrefillProbe:
    """Collects queries and attention while a prompt runs through the model, layer by layer.

    `n_queries` last queries are kept (0 for none); with `with_mass` the attention of all queries is summed, block by
    block, so that no P x P matrix exists.
    """

    n_queries: int = 0
    with_mass: bool = False
    queries: list[Tensor] = field(default_factory=list)
    mass: list[Tensor] = field(default_factory=list)

    @property
    def is_idle(self) -> bool:
        """Nothing is asked for."""
        return not self.n_queries and not self.with_mass

    def see(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Look at one layer: `query` `[1, Hq, P, D]`, `key` `[1, H, P, D]`, both rotated."""
        if self.n_queries:
            self.queries.append(query[0, :, -self.n_queries :])
        if self.with_mass:
            n_tokens, kv_heads = key.shape[2], key.shape[1]
            grouped = query[0].float().unflatten(0, (kv_heads, -1))
            columns = torch.arange(n_tokens, device=key.device)
            total = torch.zeros(*grouped.shape[:2], n_tokens, device=key.device)
            for start in range(0, n_tokens, QUERY_BLOCK):
                block = grouped[:, :, start : start + QUERY_BLOCK]
                logits = torch.einsum("hgqd,hkd->hgqk", block, key[0].float()) * scaling
                later = columns > columns[start : start + QUERY_BLOCK, None]
                total += logits.masked_fill(later, float("-inf")).softmax(-1).sum(2)
            self.mass.append(total)

    def finish(self, token_ids: Tensor, keys: Tensor, values: Tensor, logits: Tensor) -> Prefill:
        """The prefill with what was collected."""
        queries = torch.stack(self.queries) if self.queries else None
        return Prefill(token_ids, keys, values, logits, queries, torch.stack(self.mass) if self.mass else None)
