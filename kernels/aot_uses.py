"""Shapes in which the kernels are compiled ahead of time: calls of the wrappers on tensors without storage."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .add_rms_norm import add_rms_norm
from .append_kv import append_kv
from .compact_slots import compact_slots
from .decode_attention import decode_attention, fixed_chunk, plan_chunks
from .key_redundancy import key_redundancy
from .launch import recording
from .sample import sample
from .silu_mul import silu_mul
from .skinny_linear import skinny_linear
from .window_scores import window_scores

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
# rows, KV heads, query heads per KV head, head size
LLAMA = (20, 8, 4, 128)
QWEN = (20, 4, 7, 128)


def _meta(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def _decode(shape: tuple[int, int, int, int], slots: int, dtype: torch.dtype, mass: str | None) -> None:
    rows, heads, group, size = shape
    keys = _meta(rows, heads, slots, size, dtype=dtype)
    lengths = _meta(rows, dtype=torch.int32)
    query = _meta(rows, heads * group, size, dtype=dtype)
    # the plan has uses of its own
    with recording():
        plan = plan_chunks(keys, lengths, chunk=fixed_chunk(slots), impl="triton")
    decode_attention(query, keys, keys, lengths, size**-0.5, mass=mass, plan=plan, impl="triton")


def _plan(rows: int, heads: int, slots: int, lengths_dtype: torch.dtype) -> None:
    keys = _meta(rows, heads, slots, 128, dtype=BF16)
    plan_chunks(keys, _meta(rows, dtype=lengths_dtype), impl="triton")


def _append(shape: tuple[int, int, int, int], slots: int, dtype: torch.dtype) -> None:
    rows, heads, group, size = shape
    keys = _meta(rows, heads, slots, size, dtype=dtype)
    cos = _meta(rows, size, dtype=dtype)
    qkv = _meta(rows, heads * (group + 2), size, dtype=dtype)
    append_kv(qkv, cos, cos, keys, keys, _meta(rows, dtype=torch.int64), impl="triton")


def _norm(size: int, dtype: torch.dtype, add: bool) -> None:
    x = _meta(20, size, dtype=dtype)
    add_rms_norm(x, x if add else None, _meta(size, dtype=dtype), 1e-5, impl="triton")


def _silu(size: int, dtype: torch.dtype) -> None:
    silu_mul(_meta(20, 2 * size, dtype=dtype), impl="triton")


def _compact(shape: tuple[int, int, int, int], slots: int, dtype: torch.dtype, kept: int, per_head: bool) -> None:
    rows, heads, _, size = shape
    storage = _meta(2, 32, rows, heads, slots, size, dtype=dtype)
    plan = _meta(32 if per_head else 1, rows, heads if per_head else 1, kept, dtype=torch.int64)
    compact_slots(storage, _meta(rows, dtype=torch.int64), plan, impl="triton")


def _compact_positions() -> None:
    plan, rows = _meta(1, 20, 1, 2900, dtype=torch.int64), _meta(20, dtype=torch.int64)
    compact_slots(_meta(1, 1, 20, 1, 5001, 1, dtype=torch.int64), rows, plan, impl="triton")


def _redundancy(shape: tuple[int, int, int, int], slots: int, dtype: torch.dtype) -> None:
    rows, heads, _, size = shape
    keys = _meta(rows, heads, slots, size, dtype=dtype)
    key_redundancy(keys, 0.5, lengths=_meta(rows, dtype=torch.int32), impl="triton")


def _window(shape: tuple[int, int, int, int], slots: int, window: int, dtype: torch.dtype, group: str) -> None:
    rows, heads, members, size = shape
    keys = _meta(rows, heads, slots, size, dtype=dtype)
    queries = _meta(rows, heads * members, window, size, dtype=dtype)
    valid, lengths = _meta(rows, window, dtype=torch.bool), _meta(rows, dtype=torch.int32)
    window_scores(queries, keys, valid, size**-0.5, group=group, lengths=lengths, impl="triton")


def _sample(rows: int, vocabulary: int, top_k: int, order: str, dtype: torch.dtype) -> None:
    keys = _meta(rows, dtype=torch.int64)
    sample(_meta(rows, vocabulary, dtype=dtype), keys, keys, top_k=top_k, order=order, impl="triton")


def _linear(rows: int, features: int, outputs: int, dtype: torch.dtype, with_bias: bool = False) -> None:
    x, weight = _meta(rows, features, dtype=dtype), _meta(outputs, features, dtype=dtype)
    skinny_linear(x, weight, _meta(outputs, dtype=dtype) if with_bias else None, impl="triton")


USES: dict[str, Callable[[], None]] = {
    "decode-llama-bf16-2501": partial(_decode, LLAMA, 2501, BF16, None),
    "decode-llama-bf16-5001-mass": partial(_decode, LLAMA, 5001, BF16, "group_mean"),
    "decode-qwen-fp16-5001-max": partial(_decode, QWEN, 5001, FP16, "group_max"),
    "decode-qwen-bf16-5001-heads": partial(_decode, QWEN, 5001, BF16, "heads_mean"),
    "decode-llama-fp32-2501-all": partial(_decode, LLAMA, 2501, FP32, "all"),
    "decode-96-fp16": partial(_decode, (8, 8, 4, 96), 4096, FP16, None),
    "decode-80-bf16": partial(_decode, (8, 32, 1, 80), 4096, BF16, None),
    "decode-256-bf16": partial(_decode, (4, 4, 2, 256), 4096, BF16, None),
    "decode-256-fp32": partial(_decode, (4, 4, 2, 256), 4096, FP32, None),
    "decode-32-fp32": partial(_decode, (32, 2, 3, 32), 256, FP32, None),
    "decode-mqa-bf16": partial(_decode, (4, 1, 32, 128), 4096, BF16, None),
    "decode-llama-bf16-512-rows": partial(_decode, (512, 8, 4, 128), 2501, BF16, None),
    "decode-llama-bf16-one-unit": partial(_decode, LLAMA, 128, BF16, None),
    "plan-llama": partial(_plan, 20, 8, 2501, torch.int64),
    "plan-512-rows": partial(_plan, 512, 8, 16384, torch.int32),
    "append-llama-bf16": partial(_append, LLAMA, 2501, BF16),
    "append-80-fp16": partial(_append, (8, 32, 1, 80), 4096, FP16),
    "append-256-fp32": partial(_append, (4, 4, 2, 256), 4096, FP32),
    "norm-llama-bf16": partial(_norm, 4096, BF16, True),
    "norm-llama-bf16-first": partial(_norm, 4096, BF16, False),
    "norm-qwen-fp16": partial(_norm, 3584, FP16, True),
    "norm-8192-fp32": partial(_norm, 8192, FP32, True),
    "norm-16384-fp32": partial(_norm, 16384, FP32, True),
    "norm-77-fp32": partial(_norm, 77, FP32, True),
    "silu-llama-bf16": partial(_silu, 14336, BF16),
    "silu-qwen-fp16": partial(_silu, 18944, FP16),
    "silu-77-fp32": partial(_silu, 77, FP32),
    "compact-llama-bf16-shared": partial(_compact, LLAMA, 2501, BF16, 2150, False),
    "compact-llama-bf16-head": partial(_compact, LLAMA, 5001, BF16, 2900, True),
    "compact-256-fp32": partial(_compact, (4, 4, 2, 256), 4096, FP32, 2000, True),
    "compact-positions": _compact_positions,
    "redundancy-llama-bf16": partial(_redundancy, LLAMA, 5001, BF16),
    "redundancy-96-fp32": partial(_redundancy, (4, 4, 2, 96), 2501, FP32),
    "redundancy-256-fp32": partial(_redundancy, (4, 4, 2, 256), 2501, FP32),
    "redundancy-256-fp16": partial(_redundancy, (4, 4, 2, 256), 2501, FP16),
    "window-llama-bf16-rkv": partial(_window, LLAMA, 5001, 8, BF16, "max_logits"),
    "window-qwen-bf16-snapkv": partial(_window, QWEN, 5001, 32, BF16, "mean"),
    "window-qwen-fp16-max-64": partial(_window, QWEN, 2501, 64, FP16, "max"),
    "window-96-fp32": partial(_window, (4, 4, 2, 96), 2501, 8, FP32, "max_logits"),
    "window-64-fp32-32": partial(_window, (4, 4, 2, 64), 2501, 32, FP32, "mean"),
    "window-256-fp32-16": partial(_window, (4, 4, 2, 256), 2501, 16, FP32, "max"),
    "window-128-fp32-32": partial(_window, (4, 4, 2, 128), 2501, 32, FP32, "mean"),
    "window-128-bf16-128": partial(_window, (4, 4, 2, 128), 2501, 128, BF16, "mean"),
    "sample-llama-bf16": partial(_sample, 20, 128256, 20, "hf", BF16),
    "sample-qwen-fp32-dynts": partial(_sample, 20, 152064, 20, "dynts", FP32),
    "sample-top-100": partial(_sample, 20, 152064, 100, "hf", FP32),
    "linear-llama-bf16-qkv": partial(_linear, 20, 4096, 6144, BF16),
    "linear-llama-bf16-out": partial(_linear, 20, 4096, 4096, BF16),
    "linear-llama-bf16-gate-up": partial(_linear, 20, 4096, 28672, BF16),
    "linear-llama-bf16-down": partial(_linear, 20, 14336, 4096, BF16),
    "linear-llama-bf16-head": partial(_linear, 20, 4096, 128256, BF16),
    "linear-qwen-bf16-qkv": partial(_linear, 20, 3584, 4608, BF16, True),
    "linear-qwen-bf16-down-1": partial(_linear, 1, 18944, 3584, BF16),
    "linear-qwen-fp16-down-64": partial(_linear, 64, 18944, 3584, FP16),
    "linear-qwen-bf16-head-64": partial(_linear, 64, 3584, 152064, BF16),
    "linear-1001-bf16": partial(_linear, 20, 1001, 1003, BF16, True),
    "linear-fp32-out-64": partial(_linear, 64, 4096, 4096, FP32),
    "linear-fp32-gate-up": partial(_linear, 20, 4096, 28672, FP32),
}
# one use per kernel, what the tests compile by default
CORE_USES = (
    "decode-llama-bf16-5001-mass",
    "plan-llama",
    "append-llama-bf16",
    "norm-llama-bf16",
    "silu-llama-bf16",
    "compact-llama-bf16-shared",
    "redundancy-llama-bf16",
    "window-llama-bf16-rkv",
    "sample-llama-bf16",
    "linear-llama-bf16-out",
)
