"""Matrix product of a few rows with a large weight: what a decode step does four times a layer and once for its head.

Formula: `out = x weight^T + bias`. Inference only: there is no backward pass. Nothing calls it yet but its checks and
benchmarks: whether it replaces the library's product, and in which shapes, is for a measurement on a GPU to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import linear

from . import launch as _launch
from .launch import ceil_div, power_of_two
from .reference import linear as reference

STEM = "skinny_linear"
MOST_ROWS = 64
# programs that are at home on a multiprocessor at the same time; a split fills no more than that
PROGRAMS_PER_PROCESSOR = 2
MAX_SPLITS = 8
# blocks of features below which a part would end before its loads overlap
SMALLEST_SPLIT = 4
# bytes of one tile of the weight, and of all stages of a program: two programs fit into an A100's 164 KiB
TILE_BYTES = 16 * 1024
STAGES_BYTES = 80 * 1024


@dataclass(frozen=True)
class Plan:
    """How a product is divided: outputs and features of a tile of the weight, parts of a sum, warps of a program.

    `stages` 0: as many as let two programs share a multiprocessor, 3 or 4.
    """

    block_n: int
    block_k: int
    splits: int
    stages: int = 0
    warps: int = 4


def skinny_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    counters: Tensor | None = None,
    tiles: Plan | None = None,
    impl: str = "auto",
) -> Tensor:
    """`x weight^T + bias` with float32 sums, reading the weight once.

    Tiles and parts do not depend on M, so that a row is summed in the same order in any batch. Parts of a split sum
    meet in counters, which are 0 before and after a launch. Launches that share counters must run one after another:
    in one stream, or ordered by events. Without `counters`, all launches on a device share one buffer, made at the
    first call and kept, so that captured graphs may replay it; a second stream needs a buffer of its own.

    Args:
        x: `[M, K]` float32, float16 or bfloat16; any row stride. On a GPU, more than 64 rows are left to torch.
        weight: `[N, K]` of the dtype of `x`, as `torch.nn.Linear` stores it; any row stride.
        bias: `[N]` of the same dtype, or None.
        counters: int32 zeros on the device, at least `counters_needed`; None for the device's own.
        tiles: how to divide it; None for `plan`.
        impl: `auto`, `triton` or `reference`.

    Returns:
        `[M, N]` in the dtype of `x`.

    Raises:
        ValueError: shapes, strides or dtypes that do not fit; names the number.
        RuntimeError: the device's counters would first be made inside a graph capture; call once before it.
    """
    _launch.check_shape(STEM, "x", x, None, None)
    rows, features = x.shape
    _launch.check_shape(STEM, "weight", weight, None, features)
    outputs = weight.shape[0]
    given = dict(x=x, weight=weight) | ({} if bias is None else dict(bias=bias))
    _launch.check_float(STEM, **given)
    _launch.check_dense_last(STEM, **given)
    if bias is not None:
        _launch.check_shape(STEM, "bias", bias, outputs)
    if impl == "auto" and x.is_cuda and rows > MOST_ROWS:
        # no longer bound by the weight: the library's product
        return linear(x, weight, bias)
    if not _launch.choose(STEM, impl, x, None if rows <= MOST_ROWS else f"{rows} rows are more than {MOST_ROWS}"):
        return reference.skinny_linear(x, weight, bias)
    return _linear_triton(x, weight, bias, counters, tiles)


def counters_needed(device: torch.device) -> int:
    """Counters that any product on a device may use: a sum is split only where all programs are at home at once."""
    return PROGRAMS_PER_PROCESSOR * _launch.processors(device) // 2


def plan(outputs: int, features: int, item_bytes: int, processors: int, block_n: int | None = None) -> Plan:
    """The tiles of a product; they do not depend on the number of rows.

    128 outputs a tile where that many tiles still fill the device (x is then read half as often), else 64, or what
    `block_n` says. Parts: as many as are at home on the device at once. A tile of float32 holds a quarter of the
    features of one in half precision: it is multiplied without tensor cores, out of registers.
    """
    block_n = block_n or (128 if ceil_div(outputs, 128) >= processors else 64)
    block_k = TILE_BYTES // (block_n * item_bytes) // (2 if item_bytes == 4 else 1)
    home = PROGRAMS_PER_PROCESSOR * processors // max(1, ceil_div(outputs, block_n))
    return Plan(block_n, block_k, max(1, min(home, ceil_div(features, block_k) // SMALLEST_SPLIT, MAX_SPLITS)))


@cache
def _shared_counters(device: torch.device) -> Tensor:
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"{STEM}: the counters of {device} would be made inside a graph capture and be lost with the graph; call "
            "it once before the capture, or pass counters="
        )
    return torch.zeros(counters_needed(device), dtype=torch.int32, device=device)


def _linear_triton(
    x: Tensor, weight: Tensor, bias: Tensor | None, counters: Tensor | None, tiles: Plan | None
) -> Tensor:
    rows, features = x.shape
    outputs, device = weight.shape[0], x.device
    tiles = tiles or plan(outputs, features, x.element_size(), _launch.processors(device))
    # AMD's barrier does not wait for what other wavefronts store: a part could be counted before it is written
    splits = 1 if torch.version.hip is not None else tiles.splits
    n_tiles = ceil_div(outputs, tiles.block_n)
    rows_pad = power_of_two(rows, 16)
    out = torch.empty(rows, outputs, dtype=x.dtype, device=device)
    # Triton wants a pointer even where a flag switches its use off
    parts, counted = out, out
    if splits > 1:
        parts = torch.empty(splits, rows, outputs, dtype=torch.float32, device=device)
        counted = _shared_counters(device) if counters is None else counters
        if counted.dtype != torch.int32 or counted.numel() < n_tiles or not counted.is_contiguous():
            raise ValueError(
                f"{STEM}: counters are {tuple(counted.shape)} {counted.dtype}; {n_tiles} contiguous int32 are needed, "
                f"{counters_needed(device)} serve any product"
            )
    stage_bytes = (tiles.block_n + rows_pad) * tiles.block_k * x.element_size()
    _launch.launch(
        _launch.device_code(STEM).linear_kernel,
        (n_tiles if rows else 0, splits),
        dict(
            x=x,
            weight=weight,
            bias=x if bias is None else bias,
            out=out,
            parts=parts,
            counters=counted,
            rows=rows,
            outputs=outputs,
            features=features,
            x_row=x.stride(0),
            weight_row=weight.stride(0),
        ),
        dict(
            ROWS_PAD=rows_pad,
            BLOCK_N=tiles.block_n,
            BLOCK_K=tiles.block_k,
            SPLITS=splits,
            HAS_BIAS=bias is not None,
            PRECISION=_launch.precision(x.dtype),
        ),
        warps=tiles.warps,
        stages=tiles.stages or max(3, min(4, STAGES_BYTES // stage_bytes)),
    )
    return out
