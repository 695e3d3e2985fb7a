"""The products of a decode step at the batch's rows, by every library that has them."""

from __future__ import annotations

from ..products import product_rows
from .child import Task


def measure(task: Task) -> None:
    """One published shape; a provider that cannot run, or is wrong, says so in its row."""
    given = dict(device=task.settings.device, capture=task.on_gpu)
    task.rows.add("products", lambda: product_rows(task.name, task.settings.rows, **given), model=task.name)
