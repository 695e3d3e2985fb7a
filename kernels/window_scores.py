"""Attention of the last w queries over the slots, reduced to one score per slot and KV head (SnapKV, R-KV).

Formula, `x_gwj = scaling * q_gw . k_j`: `max_logits` gives `mean_w softmax_j(max_g x_gw)_j`, `mean` and `max` give
`mean_w reduce_g softmax_j(x_gw)_j`. These are three different scores; every method says which one it uses.

Sources: SnapKV, arXiv 2404.14469; R-KV, arXiv 2505.24133 (`max_logits`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import launch as _launch
from .decode_attention import tile_slots
from .launch import ceil_div, power_of_two
from .reference import scores

STEM = "window_scores"
GROUPS = ("max_logits", "mean", "max")
# the queries of a window are one tile; larger ones spill or exceed the memory of a program (aot_table.json)
QUERY_TILE_BYTES = {torch.float32: 16 * 1024, torch.float16: 32 * 1024, torch.bfloat16: 32 * 1024}
CHUNK = 512


def window_scores(
    queries: Tensor,
    keys: Tensor,
    valid: Tensor | None,
    scaling: float,
    *,
    group: str = "max_logits",
    lengths: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """Score slots by the attention that the last queries pay them.

    Args:
        queries: `[R, Hq, w, D]` float32, float16 or bfloat16, rotated; the order of the window does not matter.
        keys: `[R, H, n, D]` of the same dtype; any strides but the last.
        valid: `[R, w]` bool, queries that exist (a row may be younger than its window); None when all do.
        scaling: factor on the dot products, usually `D ** -0.5`.
        group: how the query heads of a KV head are reduced: `max_logits` before the softmax, `mean` or `max` after.
        lengths: `[R]` int32 or int64 on the device: the slots that take part in the softmax, usually the candidates
            before the window (no causal mask is applied); None when all n do.
        impl: `auto`, `triton` or `reference`.

    Returns:
        `[R, H, n]` float32, 0 behind a row's length and for a row without valid queries.

    Raises:
        ValueError: shapes, strides, dtypes or `group` that do not fit; names the number.
    """
    _launch.check_shape(STEM, "queries", queries, None, None, None, None)
    rows, q_heads, window, size = queries.shape
    _launch.check_shape(STEM, "keys", keys, rows, None, None, size)
    kv_heads, span = keys.shape[1], keys.shape[2]
    members = _launch.check_group(STEM, q_heads, kv_heads)
    _launch.check_float(STEM, queries=queries, keys=keys)
    _launch.check_dense_last(STEM, queries=queries, keys=keys)
    _launch.check_integers(STEM, lengths=lengths)
    if lengths is not None:
        _launch.check_shape(STEM, "lengths", lengths, rows)
    if valid is not None:
        _launch.check_shape(STEM, "valid", valid, rows, window)
        if valid.dtype != torch.bool:
            raise ValueError(f"{STEM}: valid is {valid.dtype}; expected bool")
    if window < 1:
        raise ValueError(f"{STEM}: a window of {window} queries scores nothing")
    if group not in GROUPS:
        raise ValueError(f"{STEM}: group={group!r}; known are {', '.join(GROUPS)}")
    largest = QUERY_TILE_BYTES[keys.dtype] // (power_of_two(size, 16) * keys.element_size())
    refused = _launch.refuse_size(size)
    if power_of_two(window, 16) > largest:
        refused = f"a window of {window} queries is larger than {largest} at head size {size} in {keys.dtype}"
    if not _launch.choose(STEM, impl, keys, refused):
        return scores.window_scores(queries, keys, valid, scaling, group=group, lengths=lengths)
    code = _launch.device_code(STEM)
    device, size_pad, window_pad = keys.device, power_of_two(size, 16), power_of_two(window, 16)
    block = tile_slots(size_pad, keys.element_size())
    # two tiles of window x block float32 live in registers; float32 operands, multiplied without tensor cores, as well
    block = max(16, min(block, (512 if keys.dtype == torch.float32 else 2048) // window_pad))
    turns = 1 if group == "max_logits" else members
    n_chunks = max(1, ceil_div(span, CHUNK))
    part_max = torch.empty(rows, kv_heads, turns, n_chunks, window_pad, dtype=torch.float32, device=device)
    part_sum = torch.empty_like(part_max)
    out = torch.empty(rows, kv_heads, span, dtype=torch.float32, device=device)
    given = dict(
        queries=queries,
        keys=keys,
        valid=out if valid is None else valid.contiguous().view(torch.int8),
        lengths=out if lengths is None else lengths,
        part_max=part_max,
        part_sum=part_sum,
        scale=scaling * _launch.LOG2_E,
        span=span,
        n_chunks=n_chunks,
        query_row=queries.stride(0),
        query_head=queries.stride(1),
        query_slot=queries.stride(2),
        key_row=keys.stride(0),
        key_head=keys.stride(1),
        key_slot=keys.stride(2),
    )
    shape = dict(
        HEADS=kv_heads,
        GROUP=members,
        MEMBERS=members // turns,
        WINDOW=window,
        WINDOW_PAD=window_pad,
        SIZE=size,
        SIZE_PAD=size_pad,
        BLOCK=block,
        HAS_LENGTHS=lengths is not None,
        HAS_VALID=valid is not None,
        PRECISION=_launch.precision(keys.dtype),
    )
    _launch.launch(
        code.normaliser_kernel, (rows * kv_heads, n_chunks, turns), dict(given, chunk=CHUNK), shape, warps=4, stages=2
    )
    _launch.launch(
        code.score_kernel,
        (rows * kv_heads, ceil_div(span, block)),
        dict(given, out=out),
        dict(shape, TAKE_MAX=group == "max"),
        warps=4,
        stages=2,
    )
    return out
