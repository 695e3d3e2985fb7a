"""Eviction in place: the kept slots of some rows move to the front, in order, all layers in one launch."""

from __future__ import annotations

import torch
from torch import Tensor

from . import launch as _launch
from .launch import power_of_two
from .reference import attention

STEM = "compact_slots"
# what one program moves at a time; it lies in the registers of one warp
BLOCK_BYTES = 8192


def compact_slots(storage: Tensor, rows: Tensor, slots: Tensor, *, impl: str = "auto") -> None:
    """Keep some slots of some rows, in place and in order; no second cache is ever made.

    Args:
        storage: `[P, L, B, H, S, D]` of any dtype: keys and values of all layers (P = 2), or with `D = 1` what
            follows the slots, such as positions (`positions[None, ..., None]`). Any strides but the last.
        rows: `[R]` int32 or int64 on the device, the rows to compact; no row twice.
        slots: `[L or 1, R, H or 1, K]` int32 or int64, the slots that stay, strictly ascending along K.
        impl: `auto`, `triton` or `reference`.

    What lies behind slot K afterwards is undefined. That `slots` ascend and lie below S is the caller's promise: to
    check it would read the device.

    Raises:
        ValueError: shapes, strides or dtypes that do not fit; names the number.
    """
    _launch.check_shape(STEM, "storage", storage, None, None, None, None, None, None)
    parts, layers, _, heads, span, size = storage.shape
    _launch.check_shape(STEM, "rows", rows, None)
    _launch.check_shape(STEM, "slots", slots, None, len(rows), None, None)
    for name, found, whole in (("layers", slots.shape[0], layers), ("heads", slots.shape[2], heads)):
        if found not in (1, whole):
            raise ValueError(f"{STEM}: slots are given for {found} {name}; expected 1 or {whole}")
    kept = slots.shape[-1]
    if kept > span:
        raise ValueError(f"{STEM}: {kept} slots cannot stay in a storage of {span}")
    _launch.check_dense_last(STEM, storage=storage)
    _launch.check_integers(STEM, rows=rows)
    if slots.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{STEM}: slots is {slots.dtype}; expected int32 or int64")
    _launch.check_dense_last(STEM, slots=slots)
    if not _launch.choose(STEM, impl, storage, _launch.refuse_size(size)):
        attention.compact_slots(storage, rows.long(), slots.long())
        return
    code = _launch.device_code(STEM)
    size_pad = power_of_two(size)
    _launch.launch(
        code.compact_kernel,
        (parts * layers * len(rows) * heads,),
        dict(
            storage=storage,
            rows=rows,
            slots=slots,
            kept=kept,
            n_rows=len(rows),
            n_layers=layers,
            n_heads=heads,
            part_stride=storage.stride(0),
            layer_stride=storage.stride(1),
            row_stride=storage.stride(2),
            head_stride=storage.stride(3),
            slot_stride=storage.stride(4),
            plan_layer=slots.stride(0) if slots.shape[0] > 1 else 0,
            plan_row=slots.stride(1),
            plan_head=slots.stride(2) if slots.shape[2] > 1 else 0,
        ),
        dict(SIZE=size, SIZE_PAD=size_pad, BLOCK=max(1, min(1024, BLOCK_BYTES // (size_pad * storage.element_size())))),
        # one warp: compiled for gfx942, the barrier does not wait for loads under way, so with several warps one could
        # store into a slot that another has yet to read; the memory operations of a single one complete in order
        warps=1,
        stages=1,
    )
