"""Compile what the timed parts will launch, in processes beside one another: they find it in Triton's cache.

A model of the same widths and two layers launches the same kernels: none is compiled for a number of layers.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from ...models.shapes import build
from .child import Task
from .decode import ShapeRows

LAYERS = 2


class _ShallowRows(ShapeRows):
    @property
    def model(self):
        """Two layers of the shape."""
        torch.manual_seed(0)
        shape = self.sizes.shape(self.name, num_hidden_layers=LAYERS)
        return build(shape, self.task.settings.device, "bfloat16")


def compile_kernels(task: Task) -> None:
    """A step and an eviction of `dynts`, `full` or the others, in the batch that will be timed."""
    name, _, methods = task.name.partition(" ")
    shape, sizes = _ShallowRows(task, name), task.sizes
    chosen = {
        "dynts": [("dynts", tokens) for tokens in sizes.first],
        "full": [("full", None)],
        "others": [(method, sizes.first[-1]) for method in sizes.others],
    }
    for method, tokens in chosen[methods]:
        work = partial(_stepped, shape, method, tokens)
        task.rows.add("warm", work, with_clocks=False, name=method, tokens=tokens, model=name)


def _stepped(shape: ShapeRows, method: str, tokens: int | None) -> dict[str, Any]:
    loop = shape.loop(method, tokens, shape.rows)
    loop.mean_step_ms((tokens or shape.sizes.longest) // 2, 1, 1)
    if tokens is not None:
        loop.evictions([[0]])
    return {}
