"""How far a long loop has come: a bar on a terminal, and one plain line that renews itself in a notebook."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from typing import Any

from tqdm import tqdm

_LINE = "{desc}: {n_fmt} of {total_fmt} in {elapsed}{postfix}"


class _NotebookLine(tqdm):
    """What a notebook keeps of a bar is its last state; written to stderr it would keep every one, on red."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        # the line break that ends a bar goes nowhere
        super().__init__(*args, **settings, file=io.StringIO(), bar_format=_LINE)

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        from IPython.display import display

        shown = display({"text/plain": ""}, raw=True, display_id=True)
        return lambda text: shown.update({"text/plain": text}, raw=True)


def progress(items: Iterable | None = None, *, title: str, **settings: Any) -> tqdm:
    """A `tqdm` over items, or one that is updated by hand.

    Args:
        title: what is counted.
        settings: as of `tqdm`, such as total, initial, disable, mininterval.
    """
    return (_NotebookLine if _is_notebook() else tqdm)(items, desc=title, **settings)


def _is_notebook() -> bool:
    """Whether a kernel runs this; IPython on a terminal has none."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None
