"""A folder of what a method needs beside a model's weights: tensors as safetensors, and a card on their origin."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import KvreproError
from ...files import write_atomic

if TYPE_CHECKING:
    from torch import Tensor

# where a method's files lie inside a model's folder when a cell names no other place
DEFAULT_FOLDERS = {"calibration": "query_statistics", "judge": "judge"}
# widths of the importance head that DynTS publishes (arXiv 2601.18383)
PUBLISHED_WIDTHS = (8192, 2048)
WEIGHTS_FILE, CARD_FILE = "model.safetensors", "card.json"


def write_asset_folder(folder: Path, tensors: Mapping[str, Tensor], card: Mapping[str, object]) -> None:
    """Write tensors and card; a run that is killed leaves no card, and a folder without card counts as empty.

    Only these two files are touched: `folder` may hold others.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{WEIGHTS_FILE}.{os.getpid()}.tmp"
    try:
        # written here and not by safetensors, which makes files that only their owner can read
        beside.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))
        # the old card must not describe the new tensors, not even for a moment
        (folder / CARD_FILE).unlink(missing_ok=True)
        os.replace(beside, folder / WEIGHTS_FILE)
    finally:
        beside.unlink(missing_ok=True)
    write_atomic(folder / CARD_FILE, json.dumps(card, indent=1) + "\n")


def read_asset_folder(folder: str | Path, what: str, remedy: str) -> tuple[dict[str, Tensor], dict]:
    """Tensors and card of a folder that `write_asset_folder` wrote.

    Args:
        what, remedy: for the message, such as "eviction judge" and how to make one.

    Raises:
        KvreproError: a file is missing or cannot be read; says which folder and what to do.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    if not (folder / WEIGHTS_FILE).is_file() or not (folder / CARD_FILE).is_file():
        raise KvreproError(f"no {what} in {folder} ({WEIGHTS_FILE}, {CARD_FILE}): {remedy}")
    try:
        return load_file(folder / WEIGHTS_FILE), json.loads((folder / CARD_FILE).read_text())
    except (SafetensorError, ValueError) as error:
        raise KvreproError(f"the {what} in {folder} cannot be read ({error}): {remedy}") from error
