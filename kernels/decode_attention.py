"""Attention of one query per row over a slot cache with rows of different length.

Formula: `o_h = sum_j a_hj v_j`, `a_h = softmax_j(scaling * q_h . k_j)` over the slots `j < lengths[row]`; query head
`h` reads KV head `h // G`. Inference only: there is no backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import launch as _launch
from .launch import ceil_div, power_of_two
from .reference import attention

STEM = "decode_attention"
MASSES = (None, "all", "group_mean", "group_max", "heads_mean")
# bytes of one K tile: K and V of three stages then take under 100 KiB of shared memory
TILE_BYTES = 16 * 1024
# work units wanted per multiprocessor: several waves, so that the last one is a small part of the launch
UNITS_PER_PROCESSOR = 8
# work units of one row at most, which one program joins, and slots of the smallest, a multiple of every tile
MOST_UNITS = 64
SMALLEST_UNIT = 128
# values, and parts, under way in a step of the join: 32 registers per thread of 4 warps
JOINED_VALUES, MOST_JOINED = 4096, 8


@dataclass(frozen=True, eq=False)
class ChunkPlan:
    """How a step's slots are divided into work units, the same for all layers; made by `plan_chunks`.

    Attributes:
        starts: `[B + 1]` int32, first work unit of every row and behind the last their number; each row has at least
            one and divides its slots evenly among its own.
        row_of: `[W]` int32, the row of every work unit, -1 behind the last one.
        counters: `[B * H]` int32, work units of a row and KV head that have ended; 0 between launches.
        most: work units that a row has at most.
    """

    starts: Tensor
    row_of: Tensor
    counters: Tensor
    most: int


def plan_chunks(
    keys: Tensor,
    lengths: Tensor | None,
    *,
    chunk: int | None = None,
    units: int | None = None,
    impl: str = "auto",
) -> ChunkPlan | None:
    """Divide the slots of all rows into chunks of about equal length, on the device: once per step, for all layers.

    A plan only balances the work: `decode_attention` is right with any plan made for as many rows and KV heads, so
    one made from the step's counters serves all layers. Launches that use one plan must follow one another (one
    stream), as they share its counters.

    Args:
        keys: `[B, H, S, D]`, one layer's; only its shape and device matter.
        lengths: `[B]` int32 or int64 on the device, slots in use (more than S counts as S); None when all are.
        chunk: slots of the smallest work unit, a multiple of 128; with it and without `units` every unit has up to
            so many, and a row's bits depend on its own length alone. None takes 128, or more where a row would have
            above 64 units, and lets `units` decide. Default None.
        units: work units per KV head, at least B, which the smallest possible chunk must do with; None takes what
            fills the device. Default None.
        impl: `auto`, `triton` or `reference`, as for `decode_attention`.

    Returns:
        The plan, or None where `decode_attention` runs the reference.

    Raises:
        ValueError: shapes, dtypes or a chunk that do not fit, fewer units than rows; names the number.
    """
    _launch.check_shape(STEM, "keys", keys, None, None, None, None)
    rows, kv_heads, span, size = keys.shape
    _check_lengths(lengths, rows)
    if chunk is not None and (chunk < 1 or chunk % SMALLEST_UNIT):
        raise ValueError(f"{STEM}: chunk={chunk}; expected a multiple of {SMALLEST_UNIT}")
    smallest = max(smallest_unit(span), chunk or 0)
    most = max(1, ceil_div(span, smallest))
    if units is None:
        units = rows * most if chunk else count_units(rows, kv_heads, _launch.processors(keys.device))
    elif units < rows:
        raise ValueError(f"{STEM}: {units} work units for {rows} rows; every row needs one")
    units = min(units, rows * most)
    if not _launch.choose(STEM, impl, keys, _launch.refuse_size(size)):
        return None
    narrow = dict(dtype=torch.int32, device=keys.device)
    starts, row_of = torch.empty(rows + 1, **narrow), torch.empty(units, **narrow)
    counters = torch.empty(rows * kv_heads, **narrow)
    rows_pad = power_of_two(rows)
    _launch.launch(
        _launch.device_code(STEM).plan_kernel,
        (min(1, rows),),
        dict(
            lengths=starts if lengths is None else lengths,
            starts=starts,
            row_of=row_of,
            counters=counters,
            rows=rows,
            span=span,
            units=units,
            n_counters=rows * kv_heads,
        ),
        dict(
            ROWS_PAD=rows_pad,
            SMALLEST=smallest,
            STEPS=(most - 1).bit_length(),
            BLOCK=512,
            HAS_LENGTHS=lengths is not None,
        ),
        # one warp needs no barriers; 16 rows per lane are its limit
        warps=min(8, max(1, rows_pad // 512)),
        stages=1,
    )
    return ChunkPlan(starts, row_of, counters, min(most, units - rows + 1))


def smallest_unit(span: int) -> int:
    """Slots of the smallest work unit: a multiple of `SMALLEST_UNIT`, so that no row has more than `MOST_UNITS`."""
    return SMALLEST_UNIT * max(1, ceil_div(span, SMALLEST_UNIT * MOST_UNITS))


def fixed_chunk(span: int) -> int:
    """Slots of a work unit where a row's bits must not depend on other rows, for `plan_chunks`.

    Small units leave a short tail; but all that the storage could need are started, so long ones take larger units.
    """
    return 2 * SMALLEST_UNIT * (1 if span <= SMALLEST_UNIT * MOST_UNITS else 2)


def count_units(rows: int, kv_heads: int, processors: int) -> int:
    """Work units per KV head: enough to fill the device, and two per row, so that long rows find some to take."""
    return max(ceil_div(UNITS_PER_PROCESSOR * processors, kv_heads), 2 * rows)


def decode_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor | None,
    scaling: float,
    *,
    mass: str | None = None,
    plan: ChunkPlan | None = None,
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
        plan: of `plan_chunks`, to share one among the layers of a step; None makes one. The reference ignores it.
        impl: `auto`, `triton` or `reference`.

    Returns:
        `[B, Hq, D]` in the dtype of `query` (zeros for a row of length 0), and float32 mass (0 in unused slots) or
        None. Equal input and an equal plan give equal bits.

    Raises:
        ValueError: shapes, strides, dtypes, a plan or `mass` that do not fit; names the number.
    """
    _launch.check_shape(STEM, "query", query, None, None, None)
    rows, q_heads, size = query.shape
    _launch.check_shape(STEM, "keys", keys, rows, None, None, size)
    kv_heads, span = keys.shape[1], keys.shape[2]
    _launch.check_shape(STEM, "values", values, rows, kv_heads, span, size)
    _launch.check_float(STEM, query=query, keys=keys, values=values)
    _launch.check_dense_last(STEM, query=query, keys=keys, values=values)
    _check_lengths(lengths, rows)
    group = _launch.check_group(STEM, q_heads, kv_heads)
    if mass not in MASSES:
        raise ValueError(f"{STEM}: mass={mass!r}; known are {', '.join(map(str, MASSES))}")
    if plan is not None:
        _launch.check_shape(STEM, "plan.starts", plan.starts, rows + 1)
        _launch.check_shape(STEM, "plan.counters", plan.counters, rows * kv_heads)
    if not _launch.choose(STEM, impl, query, _launch.refuse_size(size)):
        return attention.decode_attention(query, keys, values, lengths, scaling, mass=mass)
    plan = plan or plan_chunks(keys, lengths, impl=impl)
    return _decode_triton(query, keys, values, lengths, scaling, mass, group, plan)


def tile_slots(size_pad: int, item_bytes: int) -> int:
    """Slots per tile, so that a K tile takes `TILE_BYTES`."""
    return min(128, max(16, TILE_BYTES // (size_pad * item_bytes)))


def _check_lengths(lengths: Tensor | None, rows: int) -> None:
    _launch.check_integers(STEM, lengths=lengths)
    if lengths is not None:
        _launch.check_shape(STEM, "lengths", lengths, rows)


def _decode_triton(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor | None,
    scaling: float,
    mass: str | None,
    group: int,
    plan: ChunkPlan,
) -> tuple[Tensor, Tensor | None]:
    code = _launch.device_code(STEM)
    rows, q_heads, size = query.shape
    kv_heads, span = keys.shape[1], keys.shape[2]
    units = len(plan.row_of)
    size_pad, members, parts_pad = power_of_two(size, 16), power_of_two(group), power_of_two(plan.most)
    wide = dict(dtype=torch.float32, device=query.device)
    part_out = torch.empty(units, q_heads, size, **wide)
    part_max = torch.empty(units, q_heads, **wide)
    part_sum = torch.empty_like(part_max)
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    # Triton wants a pointer even where a flag switches its use off
    normaliser = torch.empty(rows, q_heads, **wide) if mass else part_max
    logits = torch.empty(rows, q_heads, span, **wide) if mass else part_max
    counts = plan.starts if lengths is None else lengths
    _launch.launch(
        code.split_kernel,
        (kv_heads, units),
        dict(
            query=query,
            keys=keys,
            values=values,
            lengths=counts,
            starts=plan.starts,
            row_of=plan.row_of,
            counters=plan.counters,
            logits=logits,
            part_out=part_out,
            part_max=part_max,
            part_sum=part_sum,
            out=out,
            normaliser=normaliser,
            scale=scaling * _launch.LOG2_E,
            span=span,
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
            MEMBERS=members,
            SIZE=size,
            SIZE_PAD=size_pad,
            BLOCK=tile_slots(size_pad, query.element_size()),
            PARTS_PAD=parts_pad,
            # the same however many parts a row may have, since the order of the sum depends on it
            CHUNK=max(1, min(parts_pad, MOST_JOINED, JOINED_VALUES // (members * size_pad))),
            HAS_LENGTHS=lengths is not None,
            WITH_LOGITS=mass is not None,
            PRECISION=_launch.precision(query.dtype),
            HIP=torch.version.hip is not None,
        ),
        # exact float32 products run on ordinary units, and with 4 warps on more registers than there are
        warps=8 if query.dtype == torch.float32 else 4,
        stages=3,
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
