"""What a head learns to predict: monotone maps of the raw labels, the published ones and two of ours.

Source of the published ones: DynTS `verl_sft_fsdp.py`; docs/predictor.md#label-maps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.stats import rankdata
from torch import Tensor

from ...errors import check_known

LOG_FLOOR = 1e-6  # raw labels below it are not told apart by the `log` map


def rank_map(labels: Tensor) -> Tensor:
    """Ten times the rank within the trace, in [0, 10]; equal labels share the mean of their ranks. Ours."""
    # from 0 to 2 (n - 1): twice a shared rank is a whole number
    twice = torch.from_numpy(2 * rankdata(labels.float().cpu()) - 2).to(labels)
    return 10 * twice / max(1, 2 * (len(labels) - 1))


LABEL_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    # R1-Llama
    "llama": lambda labels: 1e4 * labels,
    # R1-Qwen and EXAONE
    "qwen": lambda labels: (10 / 0.3) * labels.clamp(min=0) ** 0.3,
    "rank": rank_map,
    # ours, ln(y / 1e-6): equal ratios of attention are equal distances
    "log": lambda labels: (labels.float().clamp(min=LOG_FLOOR) / LOG_FLOOR).log().to(labels.dtype),
}


def map_labels(labels: Tensor, name: str) -> Tensor:
    """Map the raw labels `[n]` of one trace's thinking tokens; the dtype stays.

    Raises:
        UnknownNameError: no such map.
    """
    check_known("label map", LABEL_MAPS, name)
    return LABEL_MAPS[name](labels)
