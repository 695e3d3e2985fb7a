"""Logits of the replayed graph against the fused step: ragged rows, an eviction, a row that leaves, one that comes."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from ...cache.slots import CompressedCache, KeepPlan
from ...engine.decoders.fused import FusedDecoder
from ...engine.decoders.graph import GraphDecoder
from ...models.shapes import build, published_config
from .child import Task
from .plan import PDL_ENVIRONMENT
from .speed import which_step

(PDL_NAME,) = PDL_ENVIRONMENT
# largest difference between two float32 logits of the same row
LIMIT = 1e-4
SHAPE = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=3, vocab_size=1000)
# published model -> query and KV heads, in its ratio
HEADS = {"r1-llama": (8, 2), "r1-qwen": (7, 1)}
# rows of several work units of attention, which one of them joins
LONGEST_PROMPT, KEPT = 700, 300


def compare(task: Task) -> None:
    """A row per family and batch."""
    for name in HEADS:
        for rows in task.sizes.logits_rows:
            labels = dict(kind="logits", name=f"graph against fused, B={rows}", model=f"{name}, random", rows=rows)
            task.rows.add("correct", lambda n=name, r=rows: _row(task, n, r), **labels)


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
def _row(task: Task, name: str, rows: int) -> dict[str, Any]:
    device, model = task.settings.device, random_model(name, task.settings.device)
    decoders = FusedDecoder(copy.deepcopy(model)), GraphDecoder(model), GraphDecoder(model)
    capacity = LONGEST_PROMPT + 4 * task.sizes.logits_steps
    caches = [CompressedCache(model.config, rows, capacity, device=device) for _ in decoders]
    draw, differences, largest, by_launch = torch.Generator().manual_seed(rows), [], 0.0, 0.0
    for happens in _events(caches, rows, draw, device):
        for _ in range(task.sizes.logits_steps):
            tokens = torch.randint(0, SHAPE["vocab_size"], (caches[0].n_rows,), generator=draw).to(device)
            # a graph's logits are overwritten by its next step, and here they are read before
            wanted, found = (d.step(tokens, c)[0].float() for d, c in zip(decoders[:2], caches[:2], strict=True))
            with _plain_launches():
                plain = decoders[2].step(tokens, caches[2])[0].float()
            largest = max(largest, wanted.abs().max().item())
            difference = (found - wanted).abs().max().item()
            differences.append([happens, difference if found.isfinite().all() else float("inf")])
            by_launch = max(by_launch, (found - plain).abs().max().item())
    worst = max(difference for _, difference in differences)
    return {
        "max_difference": worst,
        "largest_logit": largest,
        "limit": LIMIT,
        # the same bits whether kernels begin before their predecessors have ended or not
        "launch_difference": by_launch,
        "ok": worst <= LIMIT and by_launch == 0.0,
        "worst_after": {e: max(d for f, d in differences if f == e) for e in dict.fromkeys(e for e, _ in differences)},
        **which_step(decoders[1], model.device),
    }


@contextmanager
def _plain_launches() -> Iterator[None]:
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


def _events(caches: list[CompressedCache], rows: int, draw: torch.Generator, device: str) -> Iterator[str]:
    """Change both caches alike, and say what was done; steps come between."""
    shape = caches[0].shape

    def admit(length: int) -> None:
        keys, values = torch.randn(2, shape.layers, shape.kv_heads, length, shape.head_dim, generator=draw).to(device)
        for cache in caches:
            cache.admit(keys, values)

    for row in range(rows):
        admit(LONGEST_PROMPT - row % LONGEST_PROMPT // 2)
    yield "prompts"
    # every second row evicts, its newest slots among those that stay
    evicted = torch.arange(0, rows, 2)
    shortest = min(caches[0].lengths)
    kept = torch.randperm(shortest - 1, generator=draw)[: KEPT - 1].sort().values
    slots = torch.cat([kept, torch.tensor([shortest - 1])]).expand(1, len(evicted), 1, -1).contiguous()
    for cache in caches:
        cache.compact(KeepPlan(evicted.to(device), slots.to(device)))
    yield "an eviction"
    if rows > 1:
        for cache in caches:
            cache.release(0)
        yield "a row that left"
        admit(LONGEST_PROMPT // 3)
        yield "a row that came"
