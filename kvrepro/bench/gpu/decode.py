"""Decoding in the shapes of real models: budgets, baselines, largest batches; each row is made and freed alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
from transformers import PreTrainedModel

from ...methods.budgets import Schedule
from ...methods.table import create_method
from ...models.shapes import build
from ..baselines import Baseline, Generate, ReferenceLoop
from ..engine_loop import EngineLoop
from ..settings import PAPER_RATIOS
from .child import Task
from .logits import compared
from .profiler import kernel_table
from .speed import (
    baseline_row,
    budget_row,
    check_room,
    cycle_lengths,
    engine_loop,
    full_row,
    largest_batch,
    paper_method,
)


class ShapeRows:
    """Rows of one published shape with random weights, which are made when the first row asks for them.

    Args:
        changes: of the shape's configuration.
    """

    def __init__(self, task: Task, name: str, **changes: int):
        self.task, self.name, self.sizes, self.rows = task, name, task.sizes, task.settings.rows
        self.changes = changes

    @cached_property
    def model(self) -> PreTrainedModel:
        """The weights on the device."""
        torch.manual_seed(0)
        return build(self.sizes.shape(self.name, **self.changes), self.task.settings.device, "bfloat16")

    def loop(self, method: str, tokens: int | None, rows: int, decoder: str = "graph") -> EngineLoop:
        """A full batch of one method; without a budget, of the full cache up to the longest."""
        if tokens is None:
            return engine_loop(self.model, create_method("full"), rows, self.sizes.longest, self.sizes, decoder)
        made = paper_method(self.name, method, tokens, self.model, self.sizes)
        return engine_loop(self.model, made, rows, made.schedule.peak_tokens, self.sizes, decoder)

    def add(self, title: str, method: str, work: Callable[[], dict[str, Any]], table: str = "decode", **more: Any):
        """A row under this model's name."""
        self.task.rows.add(table, work, name=title, model=self.name, method=method, **more)

    def budget(self, method: str, tokens: int, decoder: str = "graph", title: str = "", **more: Any) -> None:
        """A method under its budget."""
        title = f"{method} C={tokens} {title}".strip()
        self.add(title, method, lambda: budget_row(self.loop(method, tokens, self.rows, decoder), self.sizes), **more)

    def logits(self, tokens: int) -> None:
        """The graph's logits beside those of torch's products and attention, in the model and batch that is timed."""

        def work() -> dict[str, Any]:
            schedule = self.schedule(tokens)
            check_room(self.model, self.rows, schedule.peak_tokens)
            sizes = (schedule.kept_tokens, schedule.peak_tokens, self.sizes.logits_steps)
            return compared(self.model, self.rows, *sizes)

        self.add(f"logits of the graph, C={tokens}, B={self.rows}", "dynts", work, "correct", kind="logits")

    def schedule(self, tokens: int) -> Schedule:
        """The cycle of `dynts` at a budget."""
        return Schedule(tokens, self.sizes.window, PAPER_RATIOS[self.name])

    def profile(self, tokens: int) -> None:
        """The kernels of some replays of `dynts` at a budget, in the middle of its cycle."""

        def work() -> dict[str, Any]:
            loop = self.loop("dynts", tokens, self.rows)
            lengths, _ = cycle_lengths(loop.method, self.sizes)
            return kernel_table(loop, lengths[len(lengths) // 2], self.sizes.replays, self.sizes.warm_up)

        self.add(f"dynts C={tokens}", "dynts", work, "profile", budget_tokens=tokens, rows=self.rows)

    def largest(self, method: str, tokens: int | None) -> None:
        """As many rows as fit."""

        def work() -> dict[str, Any]:
            capacity = self.sizes.longest if tokens is None else tokens + 1
            most = largest_batch(self.model, capacity, self.sizes.most_rows)
            loop = self.loop(method, tokens, most)
            return full_row(loop, self.sizes) if tokens is None else budget_row(loop, self.sizes)

        budget = "" if tokens is None else f" C={tokens}"
        self.add(f"{method}{budget} largest batch", method, work, variant="largest batch")

    def baselines(self, lengths: list[int]) -> None:
        """What users would otherwise run, at given lengths."""

        def work(loop: type[Baseline], length: int, steps: int) -> dict[str, Any]:
            return baseline_row(self.model, loop, self.rows, length, steps, self.sizes.repeats)

        for length in lengths:
            self.add(f"eager concat n={length}", "eager", partial(work, ReferenceLoop, length, 4))
            self.add(f"generate sdpa n={length}", "generate", partial(work, Generate, length, 8))


def decode(task: Task) -> None:
    """Logits of the step that is timed, `dynts` at the first budgets; then, behind all that is timed, their kernels."""
    shape = ShapeRows(task, task.name)
    shape.logits(task.sizes.first[0])
    for tokens in task.sizes.first:
        shape.budget("dynts", tokens)
    # the profiler comes last: it may leave its hooks in the driver
    for tokens in task.sizes.first:
        shape.profile(tokens)


def decode_again(task: Task) -> None:
    """`dynts` at the first budgets under another environment, which the unit's name says."""
    name, _, variant = task.name.partition(" ")
    for tokens in task.sizes.first:
        ShapeRows(task, name).budget("dynts", tokens, title=variant, variant=variant)


def baselines(task: Task) -> None:
    """Full cache, generate and the eager loop, the latter two at the mean slots of the first budgets."""
    shape, sizes = ShapeRows(task, task.name), task.sizes
    shape.add("full cache", "full", lambda: full_row(shape.loop("full", None, shape.rows), sizes))
    cycles = map(shape.schedule, sizes.first)
    shape.baselines([round((cycle.kept_tokens + cycle.peak_tokens) / 2) for cycle in cycles])


def largest(task: Task) -> None:
    """The largest batch of the smallest budget beside that of the full cache."""
    shape = ShapeRows(task, task.name.partition(" ")[0])
    shape.largest("dynts", task.sizes.first[0])
    shape.largest("full", None)


def others(task: Task) -> None:
    """Other methods, other budgets, the step launch by launch, and long baselines."""
    shape, sizes = ShapeRows(task, task.name.partition(" ")[0]), task.sizes
    for method in sizes.others:
        shape.budget(method, sizes.first[-1])
    for tokens in sizes.budgets:
        shape.budget("dynts", tokens)
    shape.budget("dynts", sizes.first[-1], "fused", "eager step", variant="eager step")
    shape.baselines([sizes.longest // 4, sizes.longest - 64])
