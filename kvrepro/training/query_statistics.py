"""Measuring the query statistics that TriAttention reads: queries without their rotation, averaged over text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..cache.prefill import observe_sequence
from ..cache.rotary import Rotary
from ..errors import KvreproError
from ..methods.learned.query_statistics import QueryStatistics


class StatisticsProbe:
    """Sums unrotated queries while sequences run through a model; a `cache.probes.Probe`."""

    def __init__(self, rotary: Rotary):
        self.rotary = rotary
        self.sums: list[Tensor] = []
        self.sizes: list[Tensor] = []
        self.count = 0

    def observe(self, layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Add one layer of one sequence: `query` `[1, Hq, n, D]`, rotated."""
        n_tokens = query.shape[2]
        positions = torch.arange(n_tokens, device=query.device)
        plain = self.rotary.unrotate(query.float(), positions, layers=slice(layer, layer + 1))[0]
        # double: the sums run over any number of tokens
        left, right = self.rotary.halves(plain).double().chunk(2, dim=-1)
        pairs = torch.complex(left, right)
        if layer == len(self.sums):
            self.sums.append(torch.zeros_like(pairs[:, 0]))
            self.sizes.append(torch.zeros_like(left[:, 0]))
        self.sums[layer] += pairs.sum(1)
        self.sizes[layer] += pairs.abs().sum(1)

    def next_sequence(self, n_tokens: int) -> None:
        """Close a sequence."""
        self.count += n_tokens

    def finish(self) -> QueryStatistics:
        """The means over all tokens seen.

        Raises:
            KvreproError: there were none.
        """
        if not self.count:
            raise KvreproError("query statistics need at least one token and there is none: give more text or problems")
        mean, size = torch.stack(self.sums) / self.count, torch.stack(self.sizes) / self.count
        return QueryStatistics(mean.to(torch.complex64), size.float())


@torch.no_grad()
def measure_statistics(model: PreTrainedModel, sequences: Iterable[Sequence[int]]) -> QueryStatistics:
    """Run sequences of token ids through the model, one by one with full attention, and average their queries.

    Every token counts once, the prompt's and the first one included.

    Raises:
        KvreproError: no token, a model without a plain rotary embedding, or a sequence beyond its fixed frequencies.

    Source: TriAttention, arXiv 2604.04921; docs/predictor.md#query-statistics.
    """
    probe = StatisticsProbe(Rotary.of(model))
    for tokens in sequences:
        observe_sequence(model, tokens, probe)
        probe.next_sequence(len(tokens))
    return probe.finish()
