"""R-KV's redundancy: how similar a cached key is to the others, without an n x n matrix.

Formula: `C_ij = cos(k_i, k_j)`, `C_ii = 0`; `m_i = max{j : C_ij > threshold}` (0 when there is none) and
`C_(i, m_i) = 0`; the result is `c_j = mean_i C_ij`. Memory is O(n), time O(n^2 D) at worst and less where keys
repeat, since each row stops at its newest similar key.

Source: R-KV, arXiv 2505.24133, as in its code (the "retain" options there are inert); docs/methods.md#redundancy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import launch as _launch
from .launch import ceil_div, power_of_two
from .reference import scores

STEM = "key_redundancy"
# blocks of 32 slots between two looks at whether the search for similar keys can end
CHUNK = 8


def key_redundancy(
    keys: Tensor, threshold: float = 0.5, *, lengths: Tensor | None = None, impl: str = "auto"
) -> Tensor:
    """Mean cosine similarity of each key with the others, each row's newest similar key exempted.

    Args:
        keys: `[R, H, n, D]` float32, float16 or bfloat16, rotated; any strides but the last.
        threshold: cosine above which keys count as similar, in [0, 1). Default 0.5.
        lengths: `[R]` int32 or int64 on the device, keys per row; None when all n are in use.
        impl: `auto`, `triton` or `reference`.

    Returns:
        `[R, H, n]` float32, 0 behind a row's length. R-KV takes `softmax` of it over the keys.

    Raises:
        ValueError: shapes, strides, dtypes or a threshold that do not fit; names the number.
    """
    _launch.check_shape(STEM, "keys", keys, None, None, None, None)
    rows, heads, span, size = keys.shape
    _launch.check_float(STEM, keys=keys)
    _launch.check_dense_last(STEM, keys=keys)
    _launch.check_integers(STEM, lengths=lengths)
    if lengths is not None:
        _launch.check_shape(STEM, "lengths", lengths, rows)
    if not 0 <= threshold < 1:
        raise ValueError(f"{STEM}: threshold={threshold}; must lie in [0, 1), else a key would be similar to itself")
    if not _launch.choose(STEM, impl, keys, _launch.refuse_size(size)):
        return scores.key_redundancy(keys, threshold, lengths=lengths)
    code = _launch.device_code(STEM)
    pairs, size_pad = rows * heads, power_of_two(size, 16)
    # float32 is multiplied without tensor cores, from registers: larger tiles or more features at once spill
    exact = keys.dtype == torch.float32
    block = 32 if exact or size_pad > 128 else 64
    n_blocks = ceil_div(span, block)
    wide = dict(dtype=torch.float32, device=keys.device)
    inverse, cosine_at, out = (torch.empty(rows, heads, span, **wide) for _ in range(3))
    part_sum = torch.empty(rows, heads, n_blocks, size, **wide)
    latest = torch.empty(rows, heads, span, dtype=torch.int32, device=keys.device)
    given = dict(keys=keys, lengths=latest if lengths is None else lengths, inverse=inverse, span=span)
    strides = dict(key_row=keys.stride(0), key_head=keys.stride(1), key_slot=keys.stride(2))
    shape = dict(HEADS=heads, SIZE=size, SIZE_PAD=size_pad, BLOCK=block, HAS_LENGTHS=lengths is not None)
    _launch.launch(
        code.norm_kernel,
        (pairs, n_blocks),
        dict(given, part_sum=part_sum, n_blocks=n_blocks, **strides),
        shape,
        warps=4,
        stages=1,
    )
    features = min(size_pad, 32) if exact else size_pad
    _launch.launch(
        code.latest_kernel,
        (pairs, n_blocks),
        dict(given, latest=latest, cosine_at=cosine_at, threshold=threshold, **strides),
        dict(shape, ROWS=block, BLOCK=32, CHUNK=CHUNK, FEATURES=features, PRECISION=_launch.precision(keys.dtype)),
        warps=4,
        stages=3,
    )
    _launch.launch(
        code.column_kernel,
        (pairs, n_blocks),
        dict(given, part_sum=part_sum, latest=latest, cosine_at=cosine_at, out=out, n_blocks=n_blocks, **strides),
        dict(shape, ROWS=64, PARTS=16),
        warps=4,
        stages=1,
    )
    return out
