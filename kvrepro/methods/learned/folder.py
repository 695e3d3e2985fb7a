"""What methods read beside a model's weights, and its folder: tensors as safetensors, and a card on their origin.

Loads without torch, so that a cell finds its folders anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ...errors import KvreproError
from ...files import replacing, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

# widths of the importance head that DynTS publishes (arXiv 2601.18383)
PUBLISHED_WIDTHS = (8192, 2048)
WEIGHTS_FILE, CARD_FILE = "model.safetensors", "card.json"


class LearnedPart(NamedTuple):
    """What messages call it, where it lies inside a model's folder if a cell names no other place, how to get one."""

    what: str
    folder: str
    remedy: str


def _part(what: str, folder: str, verb: str, command: str, option: str) -> LearnedPart:
    return LearnedPart(what, folder, f"{verb} with `kvrepro {command} MODEL` or give its folder with {option}=...")


# by the field that holds it, in methods and in cells
LEARNED = {
    "predictor": _part("importance predictor", "importance", "train one", "train", "predictor"),
    "calibration": _part("query statistics", "query_statistics", "measure them", "calibrate", "calibration"),
    "judge": _part("eviction judge", "judge", "train one", "train-judge", "judge"),
}


def own_folder(need: str, model) -> Path:
    """Where a loaded model's own folder holds it, if it does; `need`: a name of `LEARNED`.

    Raises `KvreproError` for a model that was not loaded from a folder or the Hub.
    """
    part = LEARNED[need]
    if not (name := getattr(model, "name_or_path", "")):
        raise KvreproError(f"a {type(model).__name__} without a folder has no {part.what}: {part.remedy}")
    return Path(name) / part.folder


def write_learned(folder: Path, tensors: Mapping[str, Tensor], card: Mapping[str, object]) -> None:
    """Write tensors and card; a run that is killed leaves no card, and a folder without card counts as empty.

    Only these two files are touched: `folder` may hold others.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS_FILE) as beside:
        # written here and not by safetensors, which makes files that only their owner can read
        beside.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))
        # the old card must not describe the new tensors, not even for a moment
        (folder / CARD_FILE).unlink(missing_ok=True)
    write_atomic(folder / CARD_FILE, json.dumps(card, indent=1) + "\n")


def read_learned(need: str, folder: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and card of a folder that `write_learned` wrote; `need`: a name of `LEARNED`.

    Raises `KvreproError` where a file is missing or cannot be read, with folder and what to do.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder, part = Path(folder), LEARNED[need]
    if not (folder / WEIGHTS_FILE).is_file() or not (folder / CARD_FILE).is_file():
        raise KvreproError(f"no {part.what} in {folder} ({WEIGHTS_FILE}, {CARD_FILE}): {part.remedy}")
    try:
        return load_file(folder / WEIGHTS_FILE), json.loads((folder / CARD_FILE).read_text())
    except (SafetensorError, ValueError) as error:
        raise KvreproError(f"the {part.what} in {folder} cannot be read ({error}): {part.remedy}") from error
