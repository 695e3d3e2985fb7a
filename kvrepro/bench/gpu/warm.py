"""Compile what the timed parts will launch, in processes beside one another: they find it in Triton's cache.

A model of the same widths and fewer layers launches the same kernels.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

from .child import Task
from .decode import ShapeRows
from .logits import plain_launches

# Triton compiles a kernel anew for numbers that 16 divides, and so it may for a number of layers
LAYERS, OTHER_LAYERS = 16, 2


def compile_kernels(task: Task) -> None:
    """A step and an eviction of `dynts`, `full` or the others, in the batch that will be timed."""
    name, _, methods = task.name.partition(" ")
    sizes = task.sizes
    layers = OTHER_LAYERS if sizes.shape(name).num_hidden_layers % LAYERS else LAYERS
    shape = ShapeRows(task, name, num_hidden_layers=layers)
    chosen = {
        "dynts": [("dynts", tokens) for tokens in sizes.first],
        "full": [("full", None)],
        "others": [(method, sizes.first[-1]) for method in sizes.others],
    }
    for method, tokens in chosen[methods]:
        # `dynts` is also run with kernels that wait for their predecessors
        for launches in (nullcontext, plain_launches)[: 1 + (method == "dynts")]:
            work = partial(_stepped, shape, method, tokens, launches)
            task.rows.add("warm", work, with_clocks=False, name=method, tokens=tokens, model=name)


def _stepped(shape: ShapeRows, method: str, tokens: int | None, launches: Any) -> dict[str, Any]:
    with launches():
        loop = shape.loop(method, tokens, shape.rows)
        loop.mean_step_ms((tokens or shape.sizes.longest) // 2, 1, 1)
        if tokens is not None:
            loop.evictions([[0]])
    return {}
