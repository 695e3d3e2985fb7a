"""R-KV: attention of the last queries minus redundancy of the keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import KvreproError
from ..kernels.key_redundancy import key_redundancy as key_redundancy_kernel
from ..kernels.reference.scores import blocked_key_redundancy
from .query_window import QueryWindowMethod, check_pool, smooth
from .snapkv import SnapKVDynTSMethod
from .views import EvictionView


def redundancy(
    view: EvictionView, layers: slice, threshold: float, *, spare_first: bool = True, impl: str = "auto"
) -> Tensor:
    """Softmax over all slots of the mean similarity of each key, `[l, R, H, S]`; `impl`: as `kernels.key_redundancy`.

    Without `spare_first` the blockwise comparison runs everywhere.
    """
    keys = view.keys(layers)
    if spare_first and (keys.is_cuda or impl != "auto"):
        return key_redundancy_kernel(keys.flatten(0, 1), threshold, impl=impl).softmax(-1).unflatten(0, keys.shape[:2])
    mean = blocked_key_redundancy(keys.flatten(0, 2), threshold, spare_first=spare_first)
    return mean.softmax(-1).unflatten(0, keys.shape[:3])


def check_mix(mix: float) -> None:
    """Raise unless the weight of the attention lies in [0, 1]."""
    if not 0 <= mix <= 1:
        raise KvreproError(f"mix={mix}: the weight of the attention against redundancy must lie in [0, 1]")


@dataclass(frozen=True)
class RKVMethod(QueryWindowMethod):
    """`mix * attention - (1 - mix) * redundancy`, per layer and KV head.

    Attributes:
        mix: lambda of the paper; report it with every number. 0.1 in its README, 0.07 in its code.
        threshold: cosine above which two keys count as similar.

    Source: R-KV, arXiv 2505.24133, `rkv/compression/r1_kv.py`; docs/methods.md#rkv.
    Deviates: every row has its own similarity (the original computes row 0's for all). Kept slots stay in the order of
    time; the original leaves them in the order of their scores, so that from its second eviction on it pools over
    neighbours by score, and the last similar key is the last in that order.
    """

    name: ClassVar[str] = "rkv"
    source: ClassVar[str] = "arXiv 2505.24133"

    granularity: str = "head"
    group: str = "max_logits"
    pool_kernel: int = 7
    mix: float = 0.1
    threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pool(self.pool_kernel, "max")
        check_mix(self.mix)

    def score(self, view: EvictionView) -> Tensor:
        """`[L, R, H, S]`."""
        candidates = view.length - self.schedule.window
        found = []
        for layers in self.layer_blocks(view):
            attention = smooth(self.attention_scores(view, layers), self.pool_kernel, "max", candidates)
            found.append(
                self.mix * attention - (1 - self.mix) * redundancy(view, layers, self.threshold, impl=self.impl)
            )
        return torch.cat(found)


@dataclass(frozen=True)
class RKVDynTSMethod(SnapKVDynTSMethod):
    """`snapkv_dynts`' attention divided by `obs_window`, max-pooled, against redundancy averaged over all heads.

    Source: DynTS, arXiv 2601.18383, `inference/rkv.py` (window 8, threshold 0.5, lambda 0.1);
    docs/methods.md#rkv_dynts.
    Deviates: rows evict each on their own, as in `dynts`, and padding does not exist, so it is similar to nothing.
    """

    name: ClassVar[str] = "rkv_dynts"
    source: ClassVar[str] = "DynTS repository"

    obs_window: int = 8
    pool_kernel: int = 7
    mix: float = 0.1
    threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pool(self.pool_kernel, "max")
        check_mix(self.mix)

    def score(self, view: EvictionView) -> Tensor:
        """`[1, R, 1, S]`."""
        candidates = view.length - self.schedule.window
        attention = smooth(super().score(view) / self.obs_window, self.pool_kernel, "max", candidates)
        similar = [
            redundancy(view, layers, self.threshold, impl=self.impl).sum(0, keepdim=True)
            for layers in self.layer_blocks(view)
        ]
        mean = sum(similar).mean(2, keepdim=True) / view.cache.shape.layers
        return self.mix * attention - (1 - self.mix) * mean
