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
        self.rotary, self.n_tokens = rotary, 0
        self.sums: dict[int, Tensor] = {}
        self.sizes: dict[int, Tensor] = {}

    def observe(self, layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Add one layer of one sequence: `query` `[1, Hq, n, D]`, rotated."""
        positions = torch.arange(query.shape[2], device=query.device)
        plain = self.rotary.unrotate(query.float(), positions, layers=slice(layer, layer + 1))[0]
        # double: the sums run over any number of tokens
        pairs = torch.complex(*self.rotary.halves(plain).double().chunk(2, dim=-1))
        self.sums[layer] = self.sums.get(layer, 0) + pairs.sum(1)
        self.sizes[layer] = self.sizes.get(layer, 0) + pairs.abs().sum(1)
        self.n_tokens += len(positions) if layer == 0 else 0


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
    if not probe.n_tokens:
        raise KvreproError("query statistics need at least one token and there is none: give more text or problems")
    mean, size = (torch.stack(list(sums.values())) / probe.n_tokens for sums in (probe.sums, probe.sizes))
    return QueryStatistics(mean.to(torch.complex64), size.float())
