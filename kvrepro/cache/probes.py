"""What a pass over a sequence may collect beside its output: queries, and attention summed as the caller needs it.

A probe's `observe` is called by `attention.slots_attention` in every layer. Attention is computed a block of queries
at a time, so that no n x n matrix exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

QUERY_BLOCK = 64  # queries whose attention is held at once
# of one block of answer queries in float32; a handful of such blocks live at once
BLOCK_BYTES = 96 * 2**20


class Probe(Protocol):
    """What looks at queries and keys while a model runs."""

    def observe(self, layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Look at a chunk in one layer: `query` `[1, Hq, T, D]`, `key` `[1, H, P, D]` up to its end, both rotated."""


def masked_attention(queries: Tensor, keys: Tensor, unseen: Tensor, scaling: float | Tensor) -> Tensor:
    """Softmax attention `[..., H, G, q, S]`, float32, of grouped queries that do not see some keys.

    Args:
        queries: `[..., H, G, q, D]`, rotated.
        keys: `[..., H, S, D]`, rotated.
        unseen: bool, broadcast to the result; a query that sees no key gets NaN.
        scaling: factor on dot products, a number or broadcast to the result.
    """
    logits = torch.einsum("...gqd,...sd->...gqs", queries.float(), keys.float()).mul_(scaling)
    return logits.masked_fill_(unseen, float("-inf")).softmax(-1)


def causal_blocks(
    query: Tensor, key: Tensor, scaling: float, n_queries: int, first: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Causal attention of a chunk from its query `first` on, `n_queries` queries at a time; shown as to a probe.

    Yields positions of the block's queries `[q, 1]`, and their attention `[H, G, q, P]` float32.
    """
    keys, n_chunk = key[0].float(), query.shape[2]
    columns = torch.arange(key.shape[2], device=key.device)
    positions = columns[-n_chunk:, None]
    for start in range(first, n_chunk, n_queries):
        block, own = query[0, :, start : start + n_queries], positions[start : start + n_queries]
        yield own, masked_attention(block.unflatten(0, (len(keys), -1)), keys, columns > own, scaling)


@dataclass
class PrefillProbe:
    """Scales, last queries and attention of a prompt, chunk by chunk.

    `n_queries` last queries are kept (0 for none); with `with_mass` the attention that each token gets is summed.
    """

    n_queries: int = 0
    with_mass: bool = False
    queries: dict[int, Tensor] = field(default_factory=dict)
    mass: dict[int, Tensor] = field(default_factory=dict)
    scaling: dict[int, float] = field(default_factory=dict)

    def observe(self, layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Add a chunk; see `Probe`."""
        self.scaling[layer] = scaling
        if self.n_queries:
            before = [self.queries[layer]] if layer in self.queries else []
            self.queries[layer] = torch.cat([*before, query[0]], dim=1)[:, -self.n_queries :]
        if self.with_mass:
            (_, q_heads, n_chunk, _), (_, kv_heads, n_tokens, _) = query.shape, key.shape
            total = torch.zeros(kv_heads, q_heads // kv_heads, n_tokens, device=key.device)
            if layer in self.mass:
                total[..., : n_tokens - n_chunk] = self.mass[layer]
            for _, attention in causal_blocks(query, key, scaling, QUERY_BLOCK):
                total += attention.sum(2)
            self.mass[layer] = total


class BlockAttention:
    """Mean attention per block of queries, layer and KV head, of a whole sequence.

    `layers` collects `[blocks, H, n]` float32: block `b` holds the queries at `b * block ... (b + 1) * block - 1`.
    """

    def __init__(self, block: int):
        self.block = block
        self.layers: list[Tensor] = []

    def observe(self, layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Add one layer; see `Probe`."""
        blocks = causal_blocks(query, key, scaling, self.block)
        self.layers.append(torch.stack([attention.mean((1, 2)) for _, attention in blocks]))


class AnswerAttention:
    """Sums the attention of queries from `answer_from` on, over layers and heads, diagonal zeroed.

    The extra memory is a few times `BLOCK_BYTES` whatever the lengths. With `keep_heads` the mean of every layer and
    query head, `[L, Hq, n]`, is kept too.
    """

    def __init__(self, answer_from: int, keep_heads: bool = False):
        self.answer_from, self.keep_heads = answer_from, keep_heads
        self.by_layer: list[Tensor] = []
        self.total, self.rows = 0, 0

    def observe(self, layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Add one layer of the whole sequence; see `Probe`."""
        n_tokens, q_heads = key.shape[2], query.shape[1]
        sums = torch.zeros(q_heads, n_tokens, device=key.device)
        columns = torch.arange(n_tokens, device=key.device)
        n_queries = max(1, BLOCK_BYTES // (4 * q_heads * n_tokens))
        for own, attention in causal_blocks(query, key, scaling, n_queries, self.answer_from):
            sums += attention.masked_fill_(columns == own, 0.0).sum(dim=2).flatten(0, 1)
        self.total = self.total + sums.sum(0).double()
        self.rows += q_heads * (n_tokens - self.answer_from)
        if self.keep_heads:
            self.by_layer.append(sums / (n_tokens - self.answer_from))

    @property
    def labels(self) -> Tensor:
        """`[n]` float32: mean over layers, heads and answer queries; sums to at most 1."""
        return (self.total / self.rows).float()

    @property
    def head_labels(self) -> Tensor | None:
        """`[L, Hq, n]` float32: the same mean before it is taken over layers and heads; None unless kept."""
        return torch.stack(self.by_layer) if self.keep_heads else None


def suffix_maxima(blocks: Tensor) -> Tensor:
    """`[blocks, ...]`: entry `b` is the maximum over blocks `b` and later."""
    return blocks.flip(0).cummax(0).values.flip(0)
