"""Attention of one query per row over a slot cache with rows of different length.

Formula: `o_h = sum_j a_hj v_j`, `a_h = softmax_j(scaling * q_h . k_j)` over the slots `j < lengths[row]`; query head
`h` reads KV head `h // G`. Inference only: there is no backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import launch as _launch
from .launch import ceil_div, power_of_two
from .reference import attention

STEM = "decode_attention"
MASSES = (None, "all", "group_mean", "group_max", "heads_mean")
# bytes of one K tile: K and V of three stages then take under 100 KiB of shared memory
TILE_BYTES = 16 * 1024
# programs wanted per multiprocessor, so that rows of unequal length even out
PROGRAMS_PER_PROCESSOR = 8
MAX_SPLITS = 64
SMALLEST_SPLIT = 128


def decode_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor | None,
    scaling: float,
    *,
    mass: str | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Attention of one query per row over the slots in use, with an optional side output.

    Args:
        query: `[B, Hq, D]` float32, float16 or bfloat16, rotated.
        keys, values: `[B, H, S, D]` of the dtype of `query`; any strides but the last. What lies in a slot at or
            behind a row's length is never read.
        lengths: `[B]` int32 or int64 on the device, slots in use (more than S counts as S); None when all are.
        scaling: factor on the dot products, usually `D ** -0.5`.
        mass: which attention mass per slot to return as well, taken after the softmax: `all` `[B, H, G, S]`,
            `group_mean` or `group_max` `[B, H, S]` over the query heads of a KV head, `heads_mean` `[B, S]` over all
            query heads; None for none. Default None.
        impl: `auto`, `triton` or `reference`.

    Returns:
        `[B, Hq, D]` in the dtype of `query` (zeros for a row of length 0), and float32 mass (0 in unused slots) or
        None.

    Raises:
        ValueError: shapes, strides, dtypes or `mass` that do not fit; names the number.
    """
    _launch.check_shape(STEM, "query", query, None, None, None)
    rows, q_heads, size = query.shape
    _launch.check_shape(STEM, "keys", keys, rows, None, None, size)
    kv_heads, span = keys.shape[1], keys.shape[2]
    _launch.check_shape(STEM, "values", values, rows, kv_heads, span, size)
    _launch.check_float(STEM, query=query, keys=keys, values=values)
    _launch.check_dense_last(STEM, query=query, keys=keys, values=values)
    _launch.check_integers(STEM, lengths=lengths)
    if lengths is not None:
        _launch.check_shape(STEM, "lengths", lengths, rows)
    group = _launch.check_group(STEM, q_heads, kv_heads)
    if mass not in MASSES:
        raise ValueError(f"{STEM}: mass={mass!r}; known are {', '.join(map(str, MASSES))}")
    if not _launch.choose(STEM, impl, query, _launch.refuse_size(size)):
        return attention.decode_attention(query, keys, values, lengths, scaling, mass=mass)
    return _decode_triton(query, keys, values, lengths, scaling, mass, group)


def count_splits(pairs: int, span: int, block: int, processors: int) -> int:
    """Parts that each row's slots are split into: enough to fill the device, none without a few blocks to do."""
    wanted = ceil_div(PROGRAMS_PER_PROCESSOR * processors, max(1, pairs))
    return max(1, min(wanted, ceil_div(span, max(block, SMALLEST_SPLIT)), MAX_SPLITS))


def tile_slots(size_pad: int, item_bytes: int) -> int:
    """Slots per tile, so that a K tile takes `TILE_BYTES`."""
    return min(128, max(16, TILE_BYTES // (size_pad * item_bytes)))


def _decode_triton(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor | None, scaling: float, mass: str | None, group: int
) -> tuple[Tensor, Tensor | None]:
    code = _launch.device_code(STEM)
    rows, q_heads, size = query.shape
    kv_heads, span = keys.shape[1], keys.shape[2]
    device = query.device
    size_pad = power_of_two(size, 16)
    block = tile_slots(size_pad, query.element_size())
    n_splits = count_splits(rows * kv_heads, span, block, _launch.processors(device))
    wide = dict(dtype=torch.float32, device=device)
    part_out = torch.empty(rows, q_heads, n_splits, size, **wide)
    part_max = torch.empty(rows, q_heads, n_splits, **wide)
    part_sum = torch.empty_like(part_max)
    normaliser = torch.empty(rows, q_heads, **wide)
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    # Triton wants a pointer even where a flag switches its use off
    logits = torch.empty(rows, q_heads, span, **wide) if mass else normaliser
    counts = normaliser if lengths is None else lengths
    _launch.launch(
        code.split_kernel,
        (rows * kv_heads, n_splits),
        dict(
            query=query,
            keys=keys,
            values=values,
            lengths=counts,
            logits=logits,
            part_out=part_out,
            part_max=part_max,
            part_sum=part_sum,
            scale=scaling * _launch.LOG2_E,
            span=span,
            n_splits=n_splits,
            query_row=query.stride(0),
            query_head=query.stride(1),
            key_row=keys.stride(0),
            key_head=keys.stride(1),
            key_slot=keys.stride(2),
            value_row=values.stride(0),
            value_head=values.stride(1),
            value_slot=values.stride(2),
        ),
        dict(
            HEADS=kv_heads,
            GROUP=group,
            GROUP_PAD=power_of_two(group, 16),
            SIZE=size,
            SIZE_PAD=size_pad,
            BLOCK=block,
            HAS_LENGTHS=lengths is not None,
            WITH_LOGITS=mass is not None,
            PRECISION=_launch.precision(query.dtype),
        ),
        warps=4,
        stages=3,
    )
    splits_pad = power_of_two(n_splits)
    _launch.launch(
        code.combine_kernel,
        (rows * q_heads,),
        dict(
            part_out=part_out,
            part_max=part_max,
            part_sum=part_sum,
            out=out,
            normaliser=normaliser,
            n_splits=n_splits,
            out_row=out.stride(0),
            out_head=out.stride(1),
        ),
        dict(Q_HEADS=q_heads, SIZE=size, SIZE_PAD=size_pad, SPLITS_PAD=splits_pad, CHUNK=min(16, splits_pad)),
        warps=2,
        stages=1,
    )
    if mass is None:
        return out, None
    heads, members = (1, q_heads) if mass == "heads_mean" else (kv_heads, group)
    shape = {"all": (rows, kv_heads, group, span), "heads_mean": (rows, span)}.get(mass, (rows, kv_heads, span))
    kept = torch.empty(shape, **wide)
    block = 512
    _launch.launch(
        code.mass_kernel,
        (rows * heads, ceil_div(span, block)),
        dict(logits=logits, normaliser=normaliser, lengths=counts, mass=kept, span=span),
        dict(
            HEADS=heads,
            GROUP=members,
            BLOCK=block,
            HAS_LENGTHS=lengths is not None,
            REDUCE={"all": 0, "group_max": 2}.get(mass, 1),
        ),
        warps=4,
        stages=1,
    )
    return out, kept
