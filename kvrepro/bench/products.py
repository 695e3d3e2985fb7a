"""The matrix products of a decode step on a GPU: the library's against the kernel `skinny_linear`.

Several launches over different copies of a weight make one measurement, so that every weight comes from memory, as in
a step, where each is read once. A provider's numbers count only if its result is right.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from ..errors import KvreproError
from ..kernels.bench import time_ms
from ..kernels.checks.common import TOLERANCES, relative_error
from ..kernels.launch import ceil_div, processors
from ..kernels.reference.linear import skinny_linear as twin
from ..kernels.skinny_linear import Plan, plan, skinny_linear
from ..models.shapes import build, true_shape

# weights that one measurement reads: many times a level-2 cache, and what that still holds is a few per cent of it
READ_BYTES = 2 * 2**30
# more than any plan of a sweep counts in
COUNTERS = 2**14


@dataclass(frozen=True)
class Product:
    """`[m, k]` times the transpose of `[n, k]`; m is the batch."""

    name: str
    n: int
    k: int
    bias: bool


def products(name: str) -> list[Product]:
    """The four products of one layer of a published shape, with Q, K, V and gate, up each as one, and the head.

    Raises:
        UnknownNameError: no such shape.
    """
    config = true_shape(name)
    config.num_hidden_layers = 1
    model = build(config, "meta", "bfloat16")
    attention, mlp = model.model.layers[0].self_attn, model.model.layers[0].mlp
    fused = {
        "qkv": (attention.q_proj, attention.k_proj, attention.v_proj),
        "out": (attention.o_proj,),
        "gate_up": (mlp.gate_proj, mlp.up_proj),
        "down": (mlp.down_proj,),
        "head": (model.get_output_embeddings(),),
    }
    return [
        Product(title, sum(p.out_features for p in parts), parts[0].in_features, parts[0].bias is not None)
        for title, parts in fused.items()
    ]


def product_rows(
    name: str, rows: int, device: str = "cuda", capture: bool = True, *, sweep: bool = False
) -> Iterator[dict[str, Any]]:
    """Time every product of a published shape in bfloat16, provider by provider.

    Providers are `cublas` and `cublaslt` (torch's product with that library preferred; one with a bias goes to
    cuBLASLt either way) and `triton`. On a CPU they are `torch` by the wall clock, to try this out, and `triton`, which
    cannot run there and says so.

    Args:
        name: as `true_shape` takes it.
        rows: the batch, at most 64 for `triton`.
        device: where; of GPUs the current one.
        capture: in a CUDA graph; else times include the launches.
        sweep: also time `triton` with other tiles, stages and splits than its rule chooses.

    Yields:
        product, provider, tiles (of `triton`), m, n, k, bias, launches (of one measurement), ms_p20, ms_p50 and ms_p80
        of a launch, gb_per_s of the weight's bytes at the median, captured, error. A provider that cannot run, or whose
        result is wrong, has no numbers and says why in error, which is None otherwise.

    Raises:
        UnknownNameError: no such shape.
    """
    for product in products(name):
        yield from _rows_of(product, rows, torch.device(device), capture, sweep)


def _rows_of(product: Product, rows: int, device: torch.device, capture: bool, sweep: bool) -> Iterator[dict[str, Any]]:
    """All providers on the same weights."""
    n, k = product.n, product.k
    made = plan(n, k, torch.bfloat16.itemsize, processors(device))
    labels = dict(product=product.name, m=rows, n=n, k=k, bias=product.bias)
    kinds = ("cublas", "cublaslt") if device.type == "cuda" else ("torch",)
    providers: list[tuple[str, Plan | None]] = [(kind, None) for kind in kinds]
    providers += [("triton", tiles) for tiles in (made, *(variants(made, product, device) if sweep else ()))]
    operands = None
    for kind, tiles in providers:
        row = labels | dict(provider=kind, tiles=asdict(tiles) if tiles else None, launches=None, captured=False)
        row |= dict(ms_p20=None, ms_p50=None, ms_p80=None, gb_per_s=None, error=None)
        try:
            operands = operands or _operands(product, rows, device)
            row |= _measured(_function(kind, tiles, operands.counters), kind, operands, capture)
        except Exception as error:
            # out of memory, a library that refuses, a kernel that does not compile: the others still get their rows
            row["error"] = f"{type(error).__name__}: {error}"[:2000]
        yield row


@dataclass(frozen=True)
class _Operands:
    x: Tensor  # [m, k]
    weights: Tensor  # [copies, n, k]
    bias: Tensor | None  # [n]
    expected: Tensor  # [m, n] float32, of the first copy
    counters: Tensor


def _operands(product: Product, rows: int, device: torch.device) -> _Operands:
    n, k = product.n, product.k
    copies = max(2, ceil_div(READ_BYTES, 2 * n * k))
    made = dict(dtype=torch.bfloat16, device=device)
    x, bias = torch.randn(rows, k, **made), torch.randn(n, **made) if product.bias else None
    weights = torch.randn(copies, n, k, **made).mul_(k**-0.5)
    wide = None if bias is None else bias.float()
    counters = torch.zeros(COUNTERS, dtype=torch.int32, device=device)
    return _Operands(x, weights, bias, twin(x.float(), weights[0].float(), wide), counters)


def _function(kind: str, tiles: Plan | None, counters: Tensor) -> Callable[..., Tensor]:
    return partial(skinny_linear, tiles=tiles, counters=counters, impl="triton") if kind == "triton" else linear


def _measured(function: Callable[..., Tensor], kind: str, given: _Operands, capture: bool) -> dict[str, Any]:
    """Times of a provider, once its result is right."""

    def run() -> None:
        for weight in given.weights:
            function(given.x, weight, given.bias)

    with _preferred(kind):
        wrong = relative_error(function(given.x, given.weights[0], given.bias), given.expected)
        if not wrong <= TOLERANCES["bf16"]:
            raise KvreproError(f"the result is off by {wrong:.3g} of its largest value; not timed")
        on_gpu = given.x.is_cuda
        times = time_ms(run, capture=capture, device=str(given.x.device))
    launches = len(given.weights)
    cuts, median = statistics.quantiles(times, n=5, method="inclusive"), statistics.median(times)
    return dict(
        launches=launches,
        captured=capture and on_gpu,
        ms_p20=cuts[0] / launches,
        ms_p50=median / launches,
        ms_p80=cuts[-1] / launches,
        gb_per_s=given.weights.nbytes / median / 1e6,
    )


@contextmanager
def _preferred(kind: str) -> Iterator[None]:
    """Torch's products by that library, where it names one."""
    if kind not in ("cublas", "cublaslt"):
        yield
        return
    before = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library(kind)
    try:
        yield
    finally:
        torch.backends.cuda.preferred_blas_library(before)


def variants(made: Plan, product: Product, device: torch.device) -> list[Plan]:
    """Plans around the one of the rule: the other tile, half and twice the parts, other stages, more warps."""
    other = plan(product.n, product.k, torch.bfloat16.itemsize, processors(device), 192 - made.block_n)
    splits = {max(1, made.splits // 2), 2 * made.splits} - {made.splits}
    # the rule takes 3 stages of the one tile and 4 of the other
    stages = (4, 5) if made.block_n == 64 else (3, 5)
    return [
        other,
        *(replace(made, splits=s) for s in sorted(splits)),
        *(replace(made, stages=s) for s in stages),
        replace(made, warps=8),
    ]
