"""What a head learns to predict: monotone maps of the raw labels, the published ones and two of ours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...errors import UnknownNameError

LOG_FLOOR = 1e-6  # raw labels below it are not told apart by the `log` map


def llama_map(labels: Tensor) -> Tensor:
    """`1e4 * y`. Source: DynTS `verl_sft_fsdp.py`, R1-Llama; docs/predictor.md#label-maps."""
    return 1e4 * labels


def qwen_map(labels: Tensor) -> Tensor:
    """`(10 / 0.3) * y ** 0.3`. Source: DynTS `verl_sft_fsdp.py`, R1-Qwen and EXAONE; docs/predictor.md#label-maps."""
    return (10 / 0.3) * labels.clamp(min=0) ** 0.3


def rank_map(labels: Tensor) -> Tensor:
    """Ten times the rank within the trace, in [0, 10]; equal labels share the mean of their ranks. Ours."""
    if len(labels) < 2:
        return torch.zeros_like(labels)
    order = labels.sort().values
    low, high = torch.searchsorted(order, labels), torch.searchsorted(order, labels, right=True) - 1
    return 10 * (low + high).to(labels.dtype) / (2 * (len(labels) - 1))


def log_map(labels: Tensor) -> Tensor:
    """`ln(y / 1e-6)`, 0 at and below 1e-6: equal ratios of attention are equal distances. Ours."""
    return (labels.float().clamp(min=LOG_FLOOR) / LOG_FLOOR).log().to(labels.dtype)


LABEL_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "llama": llama_map, "qwen": qwen_map, "rank": rank_map, "log": log_map,
}  # fmt: skip


def map_labels(labels: Tensor, name: str) -> Tensor:
    """Map the raw labels `[n]` of one trace's thinking tokens; the dtype stays.

    Raises:
        UnknownNameError: no such map.
    """
    if name not in LABEL_MAPS:
        raise UnknownNameError("label map", name, LABEL_MAPS)
    return LABEL_MAPS[name](labels)
