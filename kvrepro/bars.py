"""How far a long piece of work is: bars on the error output, none in a notebook, which shows it in red; and times."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm


def in_notebook() -> bool:
    """Whether the error output of this process is a cell of a notebook."""
    return type(sys.stderr).__module__.startswith("ipykernel")


def progress_bar(items: Iterable[Any] | None = None, *, is_shown: bool = True, **options: Any) -> tqdm:
    """A bar over items, or over `total` updates; options are those of tqdm."""
    return tqdm(items, disable=in_notebook() or not is_shown, file=sys.stderr, **options)


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """No bars of transformers inside, unless somebody watches them on a terminal: logs and notebooks keep them all."""
    from transformers.utils import logging

    is_off = sys.stderr.isatty() or not logging.is_progress_bar_enabled()
    if is_off:
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def duration(seconds: float | None) -> str:
    """Seconds in the unit that reads best; `-` where they are not known."""
    if seconds is None:
        return "-"
    if 0 < seconds < 1:
        return f"{seconds:.1g} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
