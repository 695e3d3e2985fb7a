"""Views of random keys, values and queries without a model, for properties of one eviction."""

from __future__ import annotations

import torch
from transformers import LlamaConfig

from kvrepro.cache.prefill import Prefill
from kvrepro.cache.rotary import Rotary
from kvrepro.cache.slots import CompressedCache
from kvrepro.engine.requests import Request
from kvrepro.methods.base import EvictionMethod
from kvrepro.methods.views import NEVER, EvictionView


def config(layers: int = 2, q_heads: int = 6, kv_heads: int = 2, head_dim: int = 8) -> LlamaConfig:
    """The sizes of the random models."""
    return LlamaConfig(
        vocab_size=230,
        hidden_size=q_heads * head_dim,
        num_hidden_layers=layers,
        num_attention_heads=q_heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
    )


def crafted_view(
    method: EvictionMethod,
    length: int,
    *,
    n_prompt: int = 6,
    rows: int = 2,
    seed: int = 0,
    dtype=torch.float32,
    sizes: LlamaConfig | None = None,
    scale_keys: float = 1.0,
    repeat_queries: bool = False,
    answer_from: int = NEVER,
    evictions: int = 0,
) -> EvictionView:
    """`rows` rows of `length` slots, all of them admitted as prompts, of which `n_prompt` count as the question.

    With `repeat_queries` all query heads of a KV head ask the same.
    """
    sizes = sizes or config()
    generator = torch.Generator().manual_seed(seed)
    cache = CompressedCache(sizes, rows, length + 8, method.granularity, dtype)
    shape = cache.shape
    cache.rotary = Rotary(1e4 ** (-torch.arange(0, 1, 2 / shape.head_dim)))
    method.prepare(cache)
    group = shape.q_heads // shape.kv_heads
    for row in range(rows):
        keys, values = (
            torch.randn(shape.layers, shape.kv_heads, length, shape.head_dim, generator=generator) for _ in range(2)
        )
        keys = (keys * scale_keys).to(dtype)
        values = values.to(dtype)
        width = min(length, max(1, method.probe_sizes[0]))
        asked = torch.randn(
            shape.layers, shape.kv_heads, 1 if repeat_queries else group, width, shape.head_dim, generator=generator
        )
        queries = asked.expand(-1, -1, group, -1, -1).flatten(1, 2).to(dtype)
        # from a stream of its own: the others must not depend on the number of query heads
        mass = torch.rand(shape.layers, shape.kv_heads, group, length, generator=torch.Generator().manual_seed(row))
        cache.admit(keys, values)
        ids = torch.randint(20, 200, (length,), generator=generator)
        prefill = Prefill(ids, keys, values, torch.zeros(1), queries, mass)
        method.admit(cache, row, prefill, Request(str(row), 0, tuple(ids.tolist())))
    if "importance" in cache.slot_state:
        state = cache.slot_state["importance"]
        state[..., :length] = torch.rand(1, rows, 1, length, generator=generator).expand(state[..., :length].shape)
    every = torch.arange(rows)
    return EvictionView(
        cache,
        every,
        length,
        torch.full((rows,), n_prompt),
        torch.full((rows,), answer_from),
        every + 11,
        torch.full_like(every, evictions),
    )


def kept(method: EvictionMethod, view: EvictionView) -> torch.Tensor:
    """Slots of the only plan, `[L, R, H, K]`."""
    [plan], _ = method.plans(view)
    shape = view.cache.shape
    return plan.slots.expand(shape.layers, -1, shape.kv_heads, -1)
