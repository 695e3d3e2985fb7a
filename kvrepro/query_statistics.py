"""First moments of a model's queries without their rotation, per head and channel pair: TriAttention's calibration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .errors import KvreproError

FOLDER = "query_statistics"
WEIGHTS_FILE, CARD_FILE = "model.safetensors", "card.json"
_HOW = "measure them with `kvrepro calibrate MODEL` or give their folder with calibration=..."


@dataclass(frozen=True)
class QueryStatistics:
    """`mean` `[L, Hq, D/2]` complex64 and `mean_size` `[L, Hq, D/2]` float32, channel `f` paired with `f + D/2`.

    Source: TriAttention, arXiv 2604.04921; METHODS.md section 2.11.
    """

    mean: Tensor
    mean_size: Tensor

    def check(self, shape) -> None:
        """Raise unless the statistics belong to a model of this `CacheShape`."""
        expected = (shape.layers, shape.q_heads, shape.head_dim // 2)
        if tuple(self.mean.shape) != expected:
            raise KvreproError(
                f"the query statistics have [layers, heads, channel pairs] {tuple(self.mean.shape)}, the model "
                f"{expected}: they belong to another model; {_HOW}"
            )


class StatisticsProbe:
    """Sums unrotated queries while sequences run through a model; goes where a `PrefillProbe` goes."""

    def __init__(self, rotary):
        self.rotary, self.layer = rotary, 0
        self.sums: list[Tensor] = []
        self.sizes: list[Tensor] = []
        self.count = 0

    def see(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Add one layer of one sequence: `query` `[1, Hq, n, D]`, rotated."""
        n_tokens = query.shape[2]
        plain = self.rotary.unrotate(query[0].float(), torch.arange(n_tokens, device=query.device))
        left, right = plain.chunk(2, dim=-1)
        pairs = torch.complex(left, right)
        if self.layer == len(self.sums):
            self.sums.append(torch.zeros_like(pairs[:, 0]))
            self.sizes.append(torch.zeros_like(left[:, 0]))
        self.sums[self.layer] += pairs.sum(1)
        self.sizes[self.layer] += pairs.abs().sum(1)
        self.layer += 1

    def next_sequence(self, n_tokens: int) -> None:
        """Close a sequence."""
        self.layer = 0
        self.count += n_tokens

    def finish(self) -> QueryStatistics:
        """The means over all tokens seen."""
        return QueryStatistics(torch.stack(self.sums) / self.count, torch.stack(self.sizes) / self.count)


def save_statistics(statistics: QueryStatistics, folder: Path, card: dict[str, object]) -> None:
    """Write safetensors and a card."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    mean = torch.view_as_real(statistics.mean).contiguous()
    save_file({"mean": mean, "mean_size": statistics.mean_size.contiguous()}, folder / WEIGHTS_FILE)
    (folder / CARD_FILE).write_text(json.dumps(card, indent=1) + "\n")


def load_statistics(folder: str | Path) -> QueryStatistics:
    """Read statistics from their folder.

    Raises:
        KvreproError: there are none; says how to measure them.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    if not (folder / WEIGHTS_FILE).is_file():
        raise KvreproError(f"no query statistics in {folder} ({WEIGHTS_FILE}): {_HOW}")
    stored = load_file(folder / WEIGHTS_FILE)
    return QueryStatistics(torch.view_as_complex(stored["mean"]), stored["mean_size"])
