"""How far a long piece of work is: a bar on the error output, and nothing in a notebook, which shows it all in red."""

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
