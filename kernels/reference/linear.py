"""Twin of the matrix product for a few rows."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import linear


def skinny_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `kvrepro.kernels.skinny_linear.skinny_linear`: `[M, K]` times `[N, K]` plus `[N]`; returns `[M, N]`."""
    return linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
