"""Next-token sampling on the device: temperature, top-k, top-p and keyed noise, no value read back by the host.

Gives the tokens of `kvrepro.engine.sampling.sample_tokens`. Two cases are left to torch, whose sort and argmax are good
library kernels and do not synchronise either: greedy decoding, and `top_k` off or above 128.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import launch as _launch
from .launch import ceil_div, power_of_two
from .reference import sampling

STEM = "sample"
ORDERS = ("hf", "dynts")
LARGEST_TOP_K = 128
# candidates that the second kernel holds: chunks grow with the vocabulary so that this is enough
CANDIDATES = 4096
SMALLEST_CHUNK = 1024


def sample(
    logits: Tensor,
    keys: Tensor,
    steps: Tensor,
    *,
    temperature: float = 0.6,
    top_k: int = 20,
    top_p: float = 0.95,
    order: str = "hf",
    impl: str = "auto",
) -> Tensor:
    """Draw one token per row.

    Args:
        logits: `[B, V]` float32, float16 or bfloat16.
        keys: `[B]` int64 on the device, each row's sampling key.
        steps: `[B]` int64 on the device, index of the token within its reply.
        temperature: 0 is greedy. Default 0.6.
        top_k: tokens that remain; 0 is off. Default 20. Among equal logits at the border the smaller token stays;
            torch leaves that open.
        top_p: mass that remains, in (0, 1]. Default 0.95.
        order: `hf` measures the nucleus within the top k, `dynts` on the whole distribution.
        impl: `auto`, `triton` or `reference`.

    Returns:
        `[B]` int64 token ids; -1 for a row whose logits hold NaN, +inf or nothing but -inf.

    Raises:
        ValueError: shapes, dtypes or settings that do not fit; names the number.
    """
    _launch.check_shape(STEM, "logits", logits, None, None)
    rows, size = logits.shape
    _launch.check_float(STEM, logits=logits)
    _launch.check_dense_last(STEM, logits=logits)
    for name, t in (("keys", keys), ("steps", steps)):
        _launch.check_shape(STEM, name, t, rows)
        if t.dtype != torch.int64 or not t.is_contiguous():
            raise ValueError(f"{STEM}: {name} is {t.dtype} with stride {t.stride(0)}; expected contiguous int64")
    if temperature < 0 or not 0 < top_p <= 1 or top_k < 0:
        raise ValueError(f"{STEM}: temperature={temperature}, top_p={top_p}, top_k={top_k}: need >= 0, (0, 1], >= 0")
    if order not in ORDERS:
        raise ValueError(f"{STEM}: order={order!r}; known are {', '.join(ORDERS)}")
    settings = dict(temperature=temperature, top_k=top_k, top_p=top_p, order=order)
    # not a fall-back but the better kernel, so `auto` takes it without a word
    by_torch = temperature == 0 or not 0 < min(top_k, size) <= LARGEST_TOP_K
    if (by_torch and impl == "auto") or not _launch.choose(
        STEM, impl, logits, f"temperature={temperature}, top_k={top_k} is left to torch" if by_torch else None
    ):
        return sampling.sample(logits, keys, steps, **settings)
    code = _launch.device_code(STEM)
    device, top = logits.device, min(top_k, size)
    chunk = max(SMALLEST_CHUNK, power_of_two(ceil_div(size, CANDIDATES // power_of_two(top))), power_of_two(top))
    n_chunks = ceil_div(size, chunk)
    packed = torch.empty(rows, n_chunks, top, dtype=torch.int64, device=device)
    chunk_max = torch.empty(rows, n_chunks, dtype=torch.float32, device=device)
    chunk_sum = torch.empty_like(chunk_max)
    tokens = torch.empty(rows, dtype=torch.int64, device=device)
    nucleus = 0 if top_p >= 1 else 1 if order == "hf" else 2
    parts = dict(packed=packed, chunk_max=chunk_max, chunk_sum=chunk_sum, n_chunks=n_chunks, scale=float(temperature))
    _launch.launch(
        code.chunk_kernel,
        (rows, n_chunks),
        dict(parts, logits=logits, size=size, logit_row=logits.stride(0)),
        dict(TOP=top, CHUNK=chunk, WITH_SUM=nucleus == 2),
        warps=4,
        stages=1,
    )
    _launch.launch(
        code.draw_kernel,
        (rows,),
        dict(parts, keys=keys, steps=steps, tokens=tokens, n_candidates=n_chunks * top, top_p=float(top_p)),
        dict(
            TOP=top,
            TOP_PAD=power_of_two(top),
            BLOCK=power_of_two(n_chunks * top),
            CHUNKS_PAD=power_of_two(n_chunks),
            NUCLEUS=nucleus,
        ),
        warps=4,
        stages=1,
    )
    return tokens
