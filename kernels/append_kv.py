"""Rotary embedding and the write into the slot cache, in one launch per layer."""

from __future__ import annotations

import torch
from torch import Tensor

from . import launch as _launch
from .launch import power_of_two
from .reference import attention

STEM = "append_kv"


def append_kv(
    qkv: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    *,
    impl: str = "auto",
) -> Tensor:
    """Rotate queries and keys by their position and put the new keys and values into their slots, in place.

    Args:
        qkv: `[B, Hq + 2H, D]` float32, float16 or bfloat16: query, key and value heads of the newest token.
        cos, sin: `[B, D]`, the model's own rotary factors of each row's position (halves repeated, as transformers
            makes them); both None to leave queries and keys as they are.
        keys, values: `[B or more, H, S, D]`, one layer of the cache; changed in place. Any strides but the last.
        slots: `[B]` int32 or int64 on the device: where each row's token goes. A row with a slot below 0 or not
            below S writes nothing (rows that are not live; the host knows the lengths and checks for room).
        impl: `auto`, `triton` or `reference`.

    Returns:
        `[B, Hq, D]`, the rotated queries.

    Raises:
        ValueError: shapes, strides or dtypes that do not fit; names the number.
    """
    _launch.check_shape(STEM, "qkv", qkv, None, None, None)
    rows, heads, size = qkv.shape
    _launch.check_shape(STEM, "keys", keys, None, None, None, size)
    stored, kv_heads, span, _ = keys.shape
    _launch.check_shape(STEM, "values", values, stored, kv_heads, span, size)
    if stored < rows:
        raise ValueError(f"{STEM}: qkv has {rows} rows, the cache {stored}")
    q_heads = heads - 2 * kv_heads
    if q_heads < 1:
        raise ValueError(f"{STEM}: qkv has {heads} heads, no more than twice the {kv_heads} KV heads")
    _launch.check_group(STEM, q_heads, kv_heads)
    _launch.check_float(STEM, qkv=qkv)
    _launch.check_float(STEM, keys=keys, values=values)
    _launch.check_dense_last(STEM, qkv=qkv, keys=keys, values=values)
    _launch.check_integers(STEM, slots=slots)
    _launch.check_shape(STEM, "slots", slots, rows)
    if (cos is None) != (sin is None):
        raise ValueError(f"{STEM}: cos and sin come together; one of them is None")
    if cos is not None:
        if size % 2:
            raise ValueError(f"{STEM}: head size {size} is odd, it cannot be rotated in halves")
        for name, angles in (("cos", cos), ("sin", sin)):
            _launch.check_shape(STEM, name, angles, rows, size)
            _launch.check_dense_last(STEM, **{name: angles})
        if cos.stride(0) != sin.stride(0):
            raise ValueError(f"{STEM}: cos and sin differ in row stride, {cos.stride(0)} and {sin.stride(0)}")
    if not _launch.choose(STEM, impl, qkv, _launch.refuse_size(size)):
        return attention.append_kv(qkv, cos, sin, keys, values, slots)
    code = _launch.device_code(STEM)
    query = torch.empty(rows, q_heads, size, dtype=qkv.dtype, device=qkv.device)
    angles = (qkv, qkv) if cos is None else (cos, sin)
    _launch.launch(
        code.append_kernel,
        (rows, heads),
        dict(
            qkv=qkv,
            cos=angles[0],
            sin=angles[1],
            query=query,
            keys=keys,
            values=values,
            slots=slots,
            span=span,
            qkv_row=qkv.stride(0),
            qkv_head=qkv.stride(1),
            angle_row=angles[0].stride(0),
            key_row=keys.stride(0),
            key_head=keys.stride(1),
            key_slot=keys.stride(2),
            value_row=values.stride(0),
            value_head=values.stride(1),
            value_slot=values.stride(2),
        ),
        dict(
            Q_HEADS=q_heads,
            KV_HEADS=kv_heads,
            SIZE=size,
            SIZE_PAD=power_of_two(size),
            ROTATE=cos is not None,
        ),
        warps=1,
        stages=1,
    )
    return query
