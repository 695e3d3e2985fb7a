"""How tokens are drawn, as configuration: loads without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import KvreproError

ORDERS = ("hf", "dynts")


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is drawn. `temperature=0` is greedy.

    `order="hf"` applies temperature, top-k, top-p (transformers); `order="dynts"` applies temperature,
    top-p, top-k (DynTS, METHODS.md 4.1): there the nucleus is measured on the full distribution, so it
    can be larger. Source: DynTS `inference/base.py`.
    """

    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 20  # 0 = off
    order: str = "hf"

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise KvreproError(f"temperature={self.temperature}: must be 0 (greedy) or above")
        if not 0 < self.top_p <= 1:
            raise KvreproError(f"top_p={self.top_p}: must lie in (0, 1]; 1 switches it off")
        if self.top_k < 0:
            raise KvreproError(f"top_k={self.top_k}: must be 0 (off) or above")
        if self.order not in ORDERS:
            raise KvreproError(f"sampling_order={self.order!r}: known orders are {', '.join(ORDERS)}")
