"""What the benchmark times: one entry per kernel and shape, with the bytes that it cannot avoid moving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from .add_rms_norm import add_rms_norm
from .append_kv import append_kv
from .compact_slots import compact_slots
from .decode_attention import decode_attention, fixed_chunk, plan_chunks
from .key_redundancy import key_redundancy
from .sample import sample
from .silu_mul import silu_mul
from .skinny_linear import skinny_linear
from .window_scores import window_scores

# (KV heads, query heads per KV head, head size, layers) of the models that the bars are set for
SHAPES = {"llama-8b": (8, 4, 128, 32), "qwen-7b": (4, 7, 128, 28)}


@dataclass(frozen=True)
class Prepared:
    """Something to time.

    `run(impl)` does the work once; `bytes` is what it must read and write at least; `others` are library kernels for
    the same work.
    """

    run: Callable[[str], object]
    bytes: int
    others: dict[str, Callable[[], object]]


def _random(*shape: int, device: str) -> Tensor:
    return torch.randn(*shape, dtype=torch.bfloat16, device=device)


def _decode(model: str, rows: int, slots: int, mass: str | None, device: str, chunk: int | None = None) -> Prepared:
    heads, group, size, _ = SHAPES[model]
    query = _random(rows, heads * group, size, device=device)
    keys, values = (_random(rows, heads, slots, size, device=device) for _ in range(2))
    lengths = torch.full((rows,), slots, dtype=torch.int32, device=device)

    def sdpa() -> Tensor:
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(query[:, :, None], keys, values, enable_gqa=True)

    out_bytes = 0 if mass is None else 4 * rows * slots * (1 if mass == "heads_mean" else heads)
    needed = 2 * 2 * keys.numel() + 2 * 2 * query.numel() + out_bytes
    return Prepared(_attend(query, keys, values, lengths, mass, chunk), needed, {} if mass else {"sdpa": sdpa})


def _ragged(model: str, rows: int, slots: int, device: str, chunk: int | None = None) -> Prepared:
    """Lengths from `slots / rows` to `slots` in equal steps, as rows that started one after the other have them."""
    heads, group, size, _ = SHAPES[model]
    query = _random(rows, heads * group, size, device=device)
    keys, values = (_random(rows, heads, slots, size, device=device) for _ in range(2))
    lengths = [slots * (row + 1) // rows for row in range(rows)]
    needed = 2 * 2 * heads * size * sum(lengths) + 2 * 2 * query.numel()
    return Prepared(_attend(query, keys, values, torch.tensor(lengths, device=device), None, chunk), needed, {})


def _attend(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, mass: str | None, chunk: int | None
) -> Callable[[str], object]:
    """`chunk`: slots of a work unit; None takes the step's own, 0 what `plan_chunks` finds for these lengths."""
    chunk = fixed_chunk(keys.shape[2]) if chunk is None else chunk or None
    # all layers of a step share one plan, so it is made before anything is timed
    plan = cache(lambda impl: plan_chunks(keys, lengths, chunk=chunk, impl=impl))
    scaling = query.shape[-1] ** -0.5
    return lambda impl: decode_attention(query, keys, values, lengths, scaling, mass=mass, plan=plan(impl), impl=impl)


def _append(model: str, rows: int, slots: int, device: str) -> Prepared:
    heads, group, size, _ = SHAPES[model]
    qkv, cos = _random(rows, heads * (group + 2), size, device=device), _random(rows, size, device=device)
    keys, values = (_random(rows, heads, slots, size, device=device) for _ in range(2))
    at = torch.arange(rows, device=device) % slots
    needed = 2 * 2 * qkv.numel() + 2 * 2 * cos.numel()
    return Prepared(lambda impl: append_kv(qkv, cos, cos, keys, values, at, impl=impl), needed, {})


def _norm(rows: int, size: int, device: str) -> Prepared:
    weight = _random(size, device=device)
    x, residual = (_random(rows, size, device=device) for _ in range(2))
    needed = 2 * 4 * x.numel() + 2 * size
    return Prepared(lambda impl: add_rms_norm(x, residual, weight, 1e-5, impl=impl), needed, {})


def _silu(rows: int, size: int, device: str) -> Prepared:
    gate_up = _random(rows, 2 * size, device=device)
    return Prepared(lambda impl: silu_mul(gate_up, impl=impl), 2 * 3 * rows * size, {})


def _compact(model: str, rows: int, evicting: int, slots: int, kept: int, device: str) -> Prepared:
    heads, _, size, layers = SHAPES[model]
    storage = torch.zeros(2, layers, rows, heads, slots, size, dtype=torch.bfloat16, device=device)
    g = torch.Generator().manual_seed(0)
    chosen = torch.stack([torch.randperm(slots, generator=g)[:kept].sort().values for _ in range(evicting)])
    moved = int((chosen != torch.arange(kept)).sum()) * 2 * layers * heads * size * 2
    which, plan = torch.arange(evicting, device=device), chosen[None, :, None].contiguous().to(device)
    return Prepared(lambda impl: compact_slots(storage, which, plan, impl=impl), 2 * moved, {})


def _redundancy(model: str, rows: int, slots: int, device: str) -> Prepared:
    heads, _, size, _ = SHAPES[model]
    keys = _random(rows, heads, slots, size, device=device)
    return Prepared(lambda impl: key_redundancy(keys, 0.5, impl=impl), 2 * keys.numel() + 4 * rows * heads * slots, {})


def _window(model: str, rows: int, slots: int, window: int, group: str, device: str) -> Prepared:
    heads, members, size, _ = SHAPES[model]
    keys = _random(rows, heads, slots, size, device=device)
    queries = _random(rows, heads * members, window, size, device=device)
    needed = 2 * keys.numel() + 2 * queries.numel() + 4 * rows * heads * slots
    return Prepared(lambda impl: window_scores(queries, keys, None, size**-0.5, group=group, impl=impl), needed, {})


def _sample(rows: int, vocabulary: int, device: str) -> Prepared:
    logits = torch.randn(rows, vocabulary, dtype=torch.bfloat16, device=device)
    keys, steps = torch.arange(rows, device=device), torch.zeros(rows, dtype=torch.int64, device=device)
    return Prepared(lambda impl: sample(logits, keys, steps, impl=impl), 2 * logits.numel(), {})


def _linear(rows: int, features: int, outputs: int, with_bias: bool, device: str) -> Prepared:
    x, weight = _random(rows, features, device=device), _random(outputs, features, device=device)
    bias = _random(outputs, device=device) if with_bias else None
    needed = 2 * (x.numel() + weight.numel() + rows * outputs + (outputs if with_bias else 0))
    library = {"library": lambda: torch.nn.functional.linear(x, weight, bias)}
    return Prepared(lambda impl: skinny_linear(x, weight, bias, impl=impl), needed, library)


# (kernel, label) -> maker(device)
CASES: dict[tuple[str, str], Callable[[str], Prepared]] = {
    ("decode_attention", "llama-8b B20 n4096"): partial(_decode, "llama-8b", 20, 4096, None),
    ("decode_attention", "llama-8b B20 n4096 mass"): partial(_decode, "llama-8b", 20, 4096, "group_mean"),
    ("decode_attention", "llama-8b B20 n2501"): partial(_decode, "llama-8b", 20, 2501, None),
    ("decode_attention", "llama-8b B20 n2501 units of 128"): partial(_decode, "llama-8b", 20, 2501, None, chunk=128),
    ("decode_attention", "llama-8b B20 n2501 units of 512"): partial(_decode, "llama-8b", 20, 2501, None, chunk=512),
    ("decode_attention", "llama-8b B20 n2501 units by lengths"): partial(_decode, "llama-8b", 20, 2501, None, chunk=0),
    ("decode_attention", "qwen-7b B20 n4096"): partial(_decode, "qwen-7b", 20, 4096, None),
    ("decode_attention", "qwen-7b B20 n4096 mass"): partial(_decode, "qwen-7b", 20, 4096, "heads_mean"),
    ("decode_attention", "llama-8b B1 n16384"): partial(_decode, "llama-8b", 1, 16384, None),
    ("decode_attention", "llama-8b B20 n819-16384"): partial(_ragged, "llama-8b", 20, 16384),
    ("decode_attention", "llama-8b B20 n819-16384 units of 256"): partial(_ragged, "llama-8b", 20, 16384, chunk=256),
    ("decode_attention", "llama-8b B20 n819-16384 units of 1024"): partial(_ragged, "llama-8b", 20, 16384, chunk=1024),
    ("decode_attention", "llama-8b B20 n819-16384 units by lengths"): partial(_ragged, "llama-8b", 20, 16384, chunk=0),
    ("decode_attention", "llama-8b B128 n19-2501"): partial(_ragged, "llama-8b", 128, 2501),
    ("append_kv", "llama-8b B20"): partial(_append, "llama-8b", 20, 2501),
    ("append_kv", "qwen-7b B128"): partial(_append, "qwen-7b", 128, 2501),
    ("add_rms_norm", "llama-8b B20"): partial(_norm, 20, 4096),
    ("add_rms_norm", "qwen-7b B128"): partial(_norm, 128, 3584),
    ("silu_mul", "llama-8b B20"): partial(_silu, 20, 14336),
    ("silu_mul", "qwen-7b B128"): partial(_silu, 128, 18944),
    ("compact_slots", "llama-8b 1 of 20 rows 2501->2150"): partial(_compact, "llama-8b", 20, 1, 2501, 2150),
    ("compact_slots", "llama-8b 20 rows 5001->2900"): partial(_compact, "llama-8b", 20, 20, 5001, 2900),
    ("key_redundancy", "llama-8b 1 row n5001"): partial(_redundancy, "llama-8b", 1, 5001),
    ("key_redundancy", "llama-8b 8 rows n2501"): partial(_redundancy, "llama-8b", 8, 2501),
    ("window_scores", "llama-8b 20 rows n5001 w8 max_logits"): partial(_window, "llama-8b", 20, 5001, 8, "max_logits"),
    ("window_scores", "qwen-7b 20 rows n5001 w32 mean"): partial(_window, "qwen-7b", 20, 5001, 32, "mean"),
    ("sample", "B20 V128256"): partial(_sample, 20, 128256),
    ("sample", "B128 V152064"): partial(_sample, 128, 152064),
    ("skinny_linear", "llama-8b B20 out"): partial(_linear, 20, 4096, 4096, False),
    ("skinny_linear", "llama-8b B20 gate_up"): partial(_linear, 20, 4096, 28672, False),
    ("skinny_linear", "qwen-7b B64 qkv"): partial(_linear, 64, 3584, 4608, True),
}
