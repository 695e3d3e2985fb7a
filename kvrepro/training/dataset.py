"""Read labelled traces back: the dataset, its cached hidden states, and the examples that training takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import KvreproError
from .labelling import DATASET, HEADS, HIDDEN, require_datasets
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

    @property
    def relative_places(self) -> Tensor:
        """`[m]` float32 in [0, 1): where in the thought each token stands."""
        return (self.places - self.thinking_from).float() / self.n_thinking


@dataclass
class LabelledTraces:
    """A folder written by `kvrepro labels`.

    Attributes:
        keep_bytes: examples are kept in memory until they take this much; the rest is read from disk again.
        skipped: why rows were left out, counted while they are read: `nan_labels`, `wrong_length`, `no_hidden`.
    """

    folder: Path
    manifest: dict[str, Any]
    rows: dict[str, list[dict[str, Any]]]
    keep_bytes: int = 4 * 2**30
    skipped: Counter = field(default_factory=Counter)
    _kept: dict[int, Example] = field(default_factory=dict, repr=False)
    _bytes: int = 0

    @classmethod
    def open(cls, folder: str | Path, keep_bytes: int = 4 * 2**30) -> LabelledTraces:
        """Open a finished folder and check its rows; bad ones are counted in `skipped`.

        Raises:
            KvreproError: no such folder, or one without a single usable trace.
        """
        folder = Path(folder)
        manifest = read_stage_manifest(folder, "labels")
        dataset = require_datasets().load_from_disk(str(folder / DATASET), keep_in_memory=True)
        opened = cls(folder, manifest, {}, keep_bytes)
        for row in dataset:
            reason = opened._reason(row)
            if reason is None:
                opened.rows.setdefault(row["split"], []).append(row)
            else:
                opened.skipped[reason] += 1
        if not opened.rows:
            raise KvreproError(f"{folder} holds no usable labels: {dict(opened.skipped)}; label the traces again")
        return opened

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

    def head_labels(self, row: dict[str, Any]) -> Tensor:
        """`[L, Hq, n]` float32 of one row.

        Raises:
            KvreproError: the folder was made without them.
        """
        from safetensors.torch import load_file

        path = self.folder / HEADS / f"{row['index']:05d}.safetensors"
        if not path.is_file():
            raise KvreproError(
                f"{self.folder} has no labels per head: run `kvrepro labels --set labels.keep_heads=true`"
            )
        return load_file(path)["head_labels"]

    def _load(self, row: dict[str, Any]) -> Example:
        from safetensors.torch import load_file

        index = row["index"]
        if index in self._kept:
            return self._kept[index]
        stored = load_file(self.folder / HIDDEN / f"{index:05d}.safetensors")
        places = stored["places"]
        example = Example(
            row["problem_id"], stored["hidden"], torch.tensor(row["labels"])[places],
            torch.tensor(row["token_ids"])[places], places, row["thinking_from"],
            row["thinking_to"] - row["thinking_from"],
        )  # fmt: skip
        size = example.hidden.numel() * example.hidden.element_size()
        if self._bytes + size <= self.keep_bytes:
            self._kept[index] = example
            self._bytes += size
        return example
