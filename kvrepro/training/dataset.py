"""Read labelled traces back: the dataset, its cached hidden states, and the examples that training takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..errors import KvreproError
from .labelling import DATASET, HIDDEN, require
from .questions import HELD_OUT
from .stages import read_stage_manifest

STOPPING_STRIDE = 4


@dataclass(frozen=True)
class Example:
    """The cached thinking tokens of one trace.

    Attributes:
        hidden: `[m, width]`, dtype of the cache.
        labels: `[m]` float32, raw: mean attention of the answer.
        token_ids: `[m]` int64.
        places: `[m]` int64, index in the sequence.
        n_thinking: tokens of the whole thought, `m` unless the cache was thinned out.
    """

    problem_id: str
    hidden: Tensor
    labels: Tensor
    token_ids: Tensor
    places: Tensor
    thinking_from: int
    n_thinking: int


class LabelledTraces:
    """A finished folder of `kvrepro labels`.

    Attributes:
        rows: per split the usable rows of the dataset.
        skipped: why rows were left out, counted: `nan_labels`, `wrong_length`, `no_hidden`.

    Raises:
        KvreproError: no such folder, or one without a single usable trace.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.manifest = read_stage_manifest(self.folder, "labels")
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.skipped: Counter[str] = Counter()
        self._loaded: dict[int, Example] = {}
        for row in require("datasets").load_from_disk(str(self.folder / DATASET), keep_in_memory=True):
            reason = self._reason(row)
            if reason is None:
                self.rows.setdefault(row["split"], []).append(row)
            else:
                self.skipped[reason] += 1
        if not self.rows:
            raise KvreproError(f"{self.folder} holds no usable labels: {dict(self.skipped)}; label the traces again")

    def _reason(self, row: dict[str, Any]) -> str | None:
        if len(row["labels"]) != len(row["token_ids"]):
            return "wrong_length"
        if not torch.tensor(row["labels"]).isfinite().all():
            return "nan_labels"
        if not (self.folder / HIDDEN / f"{row['index']:05d}.safetensors").is_file():
            return "no_hidden"
        return None

    def count(self, split: str) -> int:
        """Traces of a split."""
        return len(self.rows.get(split, []))

    def stopping_order(self) -> list[int]:
        """Held-out traces that decide when training stops: every fourth one, never scored for the card."""
        return list(range(self.count(HELD_OUT)))[::STOPPING_STRIDE]

    def scoring_order(self) -> list[int]:
        """Held-out traces that training does not look at: the ones a card reports on."""
        return [i for i in range(self.count(HELD_OUT)) if i % STOPPING_STRIDE]

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        row = next(iter(self.rows.values()))[0]
        return self._load(row).hidden.shape[1]

    def examples(self, split: str, order: list[int] | None = None) -> Iterator[Example]:
        """The examples of a split, in the order given or in the stored one."""
        rows = self.rows.get(split, [])
        for i in range(len(rows)) if order is None else order:
            yield self._load(rows[i])

    def _load(self, row: dict[str, Any]) -> Example:
        index = row["index"]
        if index not in self._loaded:
            # mapped, not read: the system drops pages of hidden states that it has no room for
            stored = load_file(self.folder / HIDDEN / f"{index:05d}.safetensors")
            places, first = stored["places"], row["thinking_from"]
            labels, token_ids = (torch.tensor(row[name])[places] for name in ("labels", "token_ids"))
            n_thinking = row["thinking_to"] - first
            hidden = stored["hidden"]
            self._loaded[index] = Example(row["problem_id"], hidden, labels, token_ids, places, first, n_thinking)
        return self._loaded[index]
