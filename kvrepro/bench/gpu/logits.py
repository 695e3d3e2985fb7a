"""Logits of the replayed graph against a step of torch's products: ragged rows, an eviction, rows that come and go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...cache.attention import slot_attention
from ...cache.slots import CompressedCache, KeepPlan
from ...engine.decoders.fused import FusedDecoder
from ...engine.decoders.graph import GraphDecoder
from ...engine.decoders.module import ModuleDecoder
from ...models.shapes import build, published_config
from .child import Task
from .plan import PDL_ENVIRONMENT
from .speed import which_step

(PDL_NAME,) = PDL_ENVIRONMENT
# largest difference between two logits of the same row, relative to the largest logit
LIMITS = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
SHAPE = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=3, vocab_size=1000)
# published model -> query and KV heads, in its ratio; the last has no step of its own: a graph holds its own forward
HEADS = {"r1-llama": (8, 2), "r1-qwen": (7, 1), "qwen3-8b": (8, 2)}
# slots of rows of several work units of attention, which one of them joins
CAPACITY, KEPT = 724, 300
# groups of steps, see `_events`
N_EVENTS = 4


def compare(task: Task) -> None:
    """A row per family and batch."""
    steps = task.sizes.logits_steps

    def small(name: str, rows: int) -> dict[str, Any]:
        return compared(random_model(name, task.settings.device), rows, KEPT, CAPACITY, steps)

    for name in HEADS:
        for rows in task.sizes.logits_rows:
            labels = dict(kind="logits", name=f"logits of the graph, B={rows}", model=f"{name}, random", rows=rows)
            task.rows.add("correct", lambda n=name, r=rows: small(n, r), **labels)


def random_model(name: str, device: str) -> PreTrainedModel:
    """A small float32 model of a family whose biases are not zero and whose logits are of the size of trained ones."""
    torch.manual_seed(0)
    q_heads, kv_heads = HEADS[name]
    heads = dict(num_attention_heads=q_heads, num_key_value_heads=kv_heads, head_dim=SHAPE["hidden_size"] // 8)
    config = published_config(name, bos_token_id=None, eos_token_id=None, **SHAPE | heads)
    model = build(config, device, "float32")
    with torch.no_grad():
        for parameter in model.parameters():
            # norms stay ones
            if parameter.dim() == 2:
                parameter.normal_(std=0.06)
        for label, parameter in model.named_parameters():
            if label.endswith("bias"):
                parameter.normal_(std=0.5)
    return model


@torch.inference_mode()
def compared(model: PreTrainedModel, rows: int, kept: int, capacity: int, steps: int) -> dict[str, Any]:
    """Replays of a graph beside torch's products and attention, and beside a graph without early launches.

    Args:
        rows: filled to lengths between `kept` and `capacity` slots.
        kept: slots of a row behind an eviction.
        steps: between what happens to rows, see `_events`.
    """
    plain = FusedDecoder(model) if FusedDecoder.serves(model) else ModuleDecoder(model)
    graph = GraphDecoder(model)

    def logits(decoder: Any) -> list[tuple[str, Tensor]]:
        # one cache at a time, filled alike: several of a timed batch would not fit beside one another
        cache = CompressedCache(model.config, rows, capacity, dtype=model.dtype, device=model.device)
        with slot_attention(model, cache):
            return list(_steps(decoder, cache, model.config.vocab_size, kept, steps))

    wanted, found = logits(plain), logits(graph)
    with plain_launches():
        late = logits(GraphDecoder(model))
    after = {event: 0.0 for event, _ in wanted}
    for (event, right), (_, ours) in zip(wanted, found, strict=True):
        after[event] = max(after[event], _difference(ours, right))
    worst, largest = max(after.values()), max(right.abs().max().item() for _, right in wanted)
    same = [ours.argmax(-1) == right.argmax(-1) for (_, right), (_, ours) in zip(wanted, found, strict=True)]
    by_launch = max(_difference(a, b) for (_, a), (_, b) in zip(found, late, strict=True))
    row = {"against": plain.name, "limit": LIMITS[model.dtype], **which_step(graph, model.device)}
    is_rounded = row["tf32"] and model.dtype == torch.float32
    return row | {
        "relative_difference": worst / largest,
        "largest_logit": largest,
        # of rows; random weights make logits that are nearly equal, so this is no bar
        "same_largest": torch.cat(same).float().mean().item(),
        # the same bits whether kernels begin before their predecessors have ended or not
        "launch_difference": by_launch,
        "ok": worst <= row["limit"] * largest and by_launch == 0.0 and not is_rounded,
        "worst_after": {event: difference / largest for event, difference in after.items()},
    }


def _steps(
    decoder: Any, cache: CompressedCache, vocabulary: int, kept: int, steps: int
) -> Iterator[tuple[str, Tensor]]:
    """What happened last, and the logits `[B, V]` of a step."""
    draw = torch.Generator(cache.kv.device).manual_seed(cache.max_rows)
    for happened in _events(cache, kept, cache.capacity - N_EVENTS * steps, draw):
        for _ in range(steps):
            tokens = torch.randint(0, vocabulary, (cache.n_rows,), generator=draw, device=draw.device)
            # a graph's next step overwrites its logits
            yield happened, decoder.step(tokens, cache)[0].clone()


def _difference(a: Tensor, b: Tensor) -> float:
    both_finite = a.isfinite().all() and b.isfinite().all()
    return (a.float() - b.float()).abs().max().item() if both_finite else float("inf")


@contextmanager
def plain_launches() -> Iterator[None]:
    """Whatever is captured inside launches its kernels when their predecessors have ended."""
    before = os.environ.get(PDL_NAME)
    os.environ[PDL_NAME] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[PDL_NAME]
        else:
            os.environ[PDL_NAME] = before


def _events(cache: CompressedCache, kept: int, longest: int, draw: torch.Generator) -> Iterator[str]:
    """Change the cache, and say what was done; steps come between."""
    shape, rows = cache.shape, cache.max_rows

    def admit(length: int) -> None:
        size = (2, shape.layers, shape.kv_heads, length, shape.head_dim)
        cache.admit(*torch.randn(size, generator=draw, dtype=cache.kv.dtype, device=draw.device))

    for row in range(rows):
        admit(longest - row * (longest - kept) // rows)
    yield "prompts"
    # every second row evicts, the newest slot of the shortest among those that stay
    evicted, newest = torch.arange(0, rows, 2, device=draw.device), min(cache.lengths) - 1
    slots = torch.randperm(newest, generator=draw, device=draw.device)[: kept - 1].sort().values
    slots = torch.cat([slots, slots.new_tensor([newest])]).expand(1, len(evicted), 1, -1).contiguous()
    cache.compact(KeepPlan(evicted, slots))
    yield "an eviction"
    if rows > 1:
        cache.release(0)
        yield "a row that left"
        admit(kept // 2)
        yield "a row that came"
