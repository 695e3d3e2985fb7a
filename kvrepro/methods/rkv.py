"""R-KV: attention of the last queries minus redundancy of the keys."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..kernels.key_redundancy import key_redundancy as key_redundancy_kernel
from ..kernels.reference.scores import blocked_key_redundancy
from .query_window import QueryWindowMethod
from .snapkv import SnapKVDynTSMethod
from .views import EvictionView


def redundancy(
    view: EvictionView, layers: slice, threshold: float, *, spare_first: bool = True, impl: str = "auto"
) -> Tensor:
    """Softmax over all slots of the mean similarity of each key, `[l, R, H, S]`; `impl`: as `kernels.key_redundancy`.

    Without `spare_first` the blockwise comparison runs everywhere.

    Source: R-KV, arXiv 2505.24133; docs/methods.md#redundancy.
    """
    keys = view.keys(layers)
    if spare_first and (keys.is_cuda or impl != "auto"):
        return key_redundancy_kernel(keys.flatten(0, 1), threshold, impl=impl).softmax(-1).unflatten(0, keys.shape[:2])
    mean = blocked_key_redundancy(keys.flatten(0, 2), threshold, spare_first=spare_first)
    return mean.softmax(-1).unflatten(0, keys.shape[:3])


class RKVMethod(QueryWindowMethod):
    """`mix * attention - (1 - mix) * redundancy`, per layer and KV head.

    Attributes:
        mix: lambda of the paper; report it with every number. 0.1 in its README, 0.07 in its code.
        threshold: cosine above which two keys count as similar.

    Source: R-KV, arXiv 2505.24133, `rkv/compression/r1_kv.py`; docs/methods.md#rkv.
    Deviates: every row has its own similarity (the original computes row 0's for all).
    """

    name = "rkv"
    source = "arXiv 2505.24133"
    limits: ClassVar = {"mix": "[0, 1]"}

    granularity: str = "head"
    group: str = "max_logits"
    pool_kernel: int = 7
    mix: float = 0.1
    threshold: float = 0.5

    def score_layers(self, view: EvictionView, layers: slice) -> Tensor:
        """`[l, R, H, S]`."""
        attention = self.smoothed(self.attention_scores(view, layers), view)
        return self.mix * attention - (1 - self.mix) * redundancy(view, layers, self.threshold, impl=self.impl)


class RKVDynTSMethod(SnapKVDynTSMethod):
    """`snapkv_dynts`' attention divided by `obs_window`, max-pooled, against redundancy averaged over all heads.

    Source: DynTS, arXiv 2601.18383, `inference/rkv.py` (window 8, threshold 0.5, lambda 0.1);
    docs/methods.md#rkv_dynts.
    Deviates: padding does not exist, so it is similar to nothing.
    """

    name = "rkv_dynts"
    source = "DynTS repository"
    limits: ClassVar = RKVMethod.limits

    obs_window: int = 8
    pool_kernel: int = 7
    mix: float = 0.1
    threshold: float = 0.5

    def score(self, view: EvictionView) -> Tensor:
        """`[1, R, 1, S]`."""
        attention = self.smoothed(super().score(view) / self.obs_window, view)
        similar = [
            redundancy(view, layers, self.threshold, impl=self.impl).sum(0, keepdim=True)
            for layers in self.layer_blocks(view)
        ]
        mean = sum(similar).mean(2, keepdim=True) / view.cache.shape.layers
        return self.mix * attention - (1 - self.mix) * mean
