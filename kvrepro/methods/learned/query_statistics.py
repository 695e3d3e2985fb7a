"""First moments of a model's queries without their rotation, per head and channel pair: TriAttention's calibration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ...errors import KvreproError
from .folder import LEARNED, read_learned, write_learned


@dataclass(frozen=True)
class QueryStatistics:
    """`mean` `[L, Hq, D/2]` complex64 and `mean_size` `[L, Hq, D/2]` float32, of the channel pairs that the model turns
    together (`Rotary.halves`).

    Source: TriAttention, arXiv 2604.04921; docs/predictor.md#query-statistics.
    """

    mean: Tensor
    mean_size: Tensor
    _sent: dict[torch.device, QueryStatistics] = field(default_factory=dict, init=False, repr=False, compare=False)

    def on(self, device: torch.device) -> QueryStatistics:
        """The same on a device; sent there once, so that no eviction waits for it."""
        if device not in self._sent:
            self._sent[device] = QueryStatistics(self.mean.to(device), self.mean_size.to(device))
        return self._sent[device]

    def check(self, shape) -> None:
        """Raise unless the statistics belong to a model of this `CacheShape`."""
        expected = (shape.layers, shape.q_heads, shape.head_dim // 2)
        for found in (tuple(self.mean.shape), tuple(self.mean_size.shape)):
            if found != expected:
                raise KvreproError(
                    f"the query statistics have [layers, heads, channel pairs] {found}, the model {expected}: they "
                    f"belong to another model; {LEARNED['calibration'].remedy}"
                )


def save_statistics(statistics: QueryStatistics, folder: Path, card: dict[str, object]) -> None:
    """Write safetensors and a card, whole or not at all."""
    tensors = {"mean": torch.view_as_real(statistics.mean), "mean_size": statistics.mean_size}
    write_learned(folder, tensors, card)


def load_statistics(folder: str | Path) -> QueryStatistics:
    """Read statistics from their folder; `KvreproError` says how to measure them where there are none."""
    stored, _ = read_learned("calibration", folder)
    return QueryStatistics(torch.view_as_complex(stored["mean"]), stored["mean_size"])
