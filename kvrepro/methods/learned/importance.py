"""The importance predictor: a small head on the frozen model's last hidden state."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from torch import Tensor, nn

from ...errors import KvreproError
from .folder import CARD_FILE, LEARNED, PUBLISHED_WIDTHS, WEIGHTS_FILE, own_folder, read_learned, write_learned


@dataclass(frozen=True)
class PredictorShape:
    """Widths of the head."""

    hidden: int
    first: int
    second: int

    @classmethod
    def published(cls, hidden: int) -> PredictorShape:
        """DynTS' head on a model so wide."""
        return cls(hidden, *PUBLISHED_WIDTHS)

    @classmethod
    def on_disk(cls, source: str) -> PredictorShape | None:
        """What the card in a folder, or in the local copy of a Hub repository, says; None where there is no card."""
        from huggingface_hub import try_to_load_from_cache

        hub_id, _, revision = source.partition("@")
        card = Path(source).expanduser() / CARD_FILE
        if not card.is_file() and _is_hub_id(source):
            # a path, or a value that says that the Hub has none
            found = try_to_load_from_cache(hub_id, CARD_FILE, revision=revision or None)
            card = Path(found) if isinstance(found, str) else card
        return cls(**json.loads(card.read_text())["shape"]) if card.is_file() else None

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.hidden * self.first + self.first * self.second + self.second


class ImportancePredictor(nn.Module):
    """`Linear, Softplus, Linear, Softplus, Linear, Softplus` without biases: a positive score per token.

    Source: DynTS, arXiv 2601.18383, `models/llama.py`; docs/predictor.md#head.
    """

    def __init__(self, shape: PredictorShape):
        super().__init__()
        self.shape = shape
        widths = (shape.hidden, shape.first, shape.second, 1)
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(widths))

    def forward(self, hidden: Tensor) -> Tensor:
        """`[..., hidden]` -> `[...]`, above 0."""
        for layer in self.layers:
            hidden = nn.functional.softplus(layer(hidden))
        return hidden.squeeze(-1)


def save_predictor(predictor: ImportancePredictor, folder: Path, card: dict[str, object]) -> None:
    """Write weights as safetensors and the card with shape and scores, whole or not at all."""
    write_learned(folder, predictor.state_dict(), {"shape": asdict(predictor.shape), **card})


def load_predictor(folder: str | Path, hidden: int | None = None) -> ImportancePredictor:
    """Load a head from its folder.

    Raises `KvreproError` where files are missing, or its width is not `hidden`, the width of the model it is meant for.
    """
    stored, card = read_learned("predictor", folder)
    shape = PredictorShape(**card["shape"])
    if hidden is not None and shape.hidden != hidden:
        raise KvreproError(f"the predictor in {folder} is {shape.hidden} wide, the model's hidden state {hidden}")
    predictor = ImportancePredictor(shape)
    predictor.load_state_dict(stored)
    return predictor.eval()


def _is_hub_id(source: str) -> bool:
    return not (Path(source).exists() or source.count("/") != 1 or source.startswith((".", "/", "~")))


def _local_folder(source: str) -> Path:
    """The folder itself, or the local copy of a Hub repository `OWNER/NAME[@REVISION]`."""
    hub_id, _, revision = source.partition("@")
    if not _is_hub_id(source):
        return Path(source).expanduser()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, revision=revision or None, allow_patterns=[WEIGHTS_FILE, CARD_FILE]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise KvreproError(
            f"no importance predictor {source!r}: it is no folder, and the Hub gave {type(error).__name__}. "
            f"Give a folder with {WEIGHTS_FILE} and {CARD_FILE}; {LEARNED['predictor'].remedy}"
        ) from error


def load_predictor_for(model, folder: str | Path | None = None) -> ImportancePredictor:
    """The head of a loaded model: in `folder`, a path or Hub id, or in `importance/` of its own; `KvreproError` without
    one.
    """
    local = own_folder("predictor", model) if folder is None else _local_folder(str(folder))
    hidden = model.config.get_text_config(decoder=True).hidden_size
    return load_predictor(local, hidden).to(model.device, model.dtype)
