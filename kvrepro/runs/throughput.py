"""Throughput that is measured apart from the cells: what a profile asks for, and what was found for a panel.

A panel is the cells of one model and benchmark of a profile. `bench.throughput` measures one once its cells are
complete and writes one JSON file; here it is described, found and read. Loads without torch.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from ..checks import typed
from ..errors import KvreproError, check_known
from ..paths import results_root
from .config import CellConfig
from .folder import MANIFEST, CellFolder, read_manifest

if TYPE_CHECKING:
    from .profiles import Profile

# below this many rounds an interval says next to nothing
LEAST_ROUNDS = 5
# which way a method's throughput goes from the smallest to the largest budget; `BUSY`: too noisy to say, `ALONE`: there
# is one cell and nothing to compare it with; of panels only, `MIXED`: their methods differ
FALLS, RISES, LEVEL, BUSY, ALONE, MIXED = "falls", "rises", "level", "busy", "alone", "mixed"
# share of the cores from which on it is the machine that was busy, and below which something else was noisy
BUSY_LOAD = 0.1


@dataclass(frozen=True)
class ThroughputSettings:
    """How a profile's panels are measured, its key `throughput`.

    Attributes:
        rounds: of every cell, at least `LEAST_ROUNDS`.
        rows: replies decoded together, at most those of a cell and its `batch_rows`.
        turn_tokens: tokens that every row decodes before the next cell has its turn. Turn by turn a pass over `rows`
            replies is dealt to `LEAST_ROUNDS` rounds, and all caches of a panel are held at once. None takes whole
            replies in turn: a pass per round over the same replies, and one cache at a time.
    """

    rounds: int = LEAST_ROUNDS
    rows: int = 48
    turn_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, expected in get_type_hints(ThroughputSettings).items():
            object.__setattr__(self, name, typed(f"throughput: {name}", getattr(self, name), expected))
        for name, least in (("rounds", LEAST_ROUNDS), ("rows", 1), ("turn_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise KvreproError(f"throughput: {name}={value}: must be at least {least}")

    def passes(self) -> list[list[int]]:
        """The rounds that each pass over some replies is dealt to."""
        n_passes = self.rounds if self.turn_tokens is None else self.rounds // LEAST_ROUNDS
        return [
            list(range(self.rounds))[i * self.rounds // n_passes : (i + 1) * self.rounds // n_passes]
            for i in range(n_passes)
        ]

    @classmethod
    def from_mapping(cls, values: Any) -> ThroughputSettings:
        """Build from a profile's key.

        Raises:
            KvreproError: no mapping, an unknown name, a value of the wrong type or out of range.
        """
        if not isinstance(values, Mapping):
            raise KvreproError(f"`throughput` must be a mapping such as {{rounds: 5, rows: 48}}, given {values!r}")
        check_known("key of throughput", [f.name for f in fields(cls)], *values)
        return cls(**values)


@dataclass(frozen=True)
class Panel:
    """The cells of one model and benchmark of a profile, how their throughput is to be measured and where it lies."""

    profile: str
    name: str
    cells: tuple[CellConfig, ...]
    settings: ThroughputSettings = ThroughputSettings()

    @classmethod
    def all_of(cls, profile: Profile) -> list[Panel]:
        """The panels of a profile that asks for throughput, in its order; of one that does not, none.

        Raises:
            KvreproError: two models whose names end alike: their panels would be one.
        """
        if profile.throughput is None:
            return []
        by_name: dict[str, list[CellConfig]] = {}
        for cell in profile.cells:
            cells = by_name.setdefault(cell.cell_id.rsplit("/", 2)[0], [])
            if cells and cells[0].model != cell.model:
                raise KvreproError(
                    f"throughput: the models {cells[0].model} and {cell.model} end alike, so it would lie in one file: "
                    "rename a folder, or make two profiles"
                )
            cells.append(cell)
        return [cls(profile.name, name, tuple(cells), profile.throughput) for name, cells in by_name.items()]

    @property
    def folders(self) -> list[CellFolder]:
        """Where the results of its cells lie."""
        return [CellFolder.of(self.profile, cell) for cell in self.cells]

    @property
    def lacks(self) -> str:
        """Which of its cells are not complete; empty if all are. While one is not, the panel is not measured."""
        missing = [folder.cell_id for folder in self.folders if not folder.is_complete]
        count = f"{len(missing)} of {len(self.cells)} cells are not complete"
        return f"throughput of {self.name} needs all its replies: {count}, {missing[0]} first" if missing else ""

    @property
    def _root(self) -> Path:
        return results_root() / self.profile

    @property
    def path(self) -> Path:
        """`results/<profile>/throughput/<model>/<benchmark>.json`."""
        return self._root / "throughput" / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """What the panel's process in a grid wrote."""
        return self._root / "logs" / f"throughput_{self.name.replace('/', '_')}.log"

    def runs(self) -> dict[str, str | None]:
        """By cell when its run ended: what a measurement belongs to."""
        return {folder.cell_id: read_manifest(folder.path).get("ended") for folder in self.folders}

    @property
    def is_measured(self) -> bool:
        """Whether it was measured as is asked for, on its cells as they are; not after one of them was run again."""
        if self.lacks or (found := self.read()) is None or not self._fits(found.get("settings") or {}):
            return False
        return {name: cell.get("ended") for name, cell in found["cells"].items()} == self.runs()

    @property
    def is_settled(self) -> bool:
        """Whether that also says which way it goes: a panel that was too noisy is measured again when one asks."""
        return self.is_measured and self.read()["verdict"] != BUSY

    def _fits(self, settings: Mapping[str, Any]) -> bool:
        """Whether these are the settings that are asked for, or more rounds."""
        asked = asdict(self.settings)
        return settings.get("rounds", 0) >= asked["rounds"] and {**settings, "rounds": asked["rounds"]} == asked

    @property
    def measured_ns(self) -> int:
        """When it was, or its newest cell: as old as its mark must be, for Snakemake goes by times alone."""
        written = [self.path, *(folder.path / MANIFEST for folder in self.folders)]
        return max(path.stat().st_mtime_ns for path in written)

    def read(self) -> dict[str, Any] | None:
        """What was measured (docs/reference.md), None where nothing was; a damaged file is none, with a warning."""
        try:
            found = json.loads(self.path.read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            found = None
        names = ("cells", "methods", "load", "settings")
        parts = [found.get(name) for name in names] if isinstance(found, dict) else [None]
        is_whole = all(isinstance(part, dict) for part in parts) and {"mean", "max"} <= parts[2].keys()
        if not is_whole or "verdict" not in found or not _is_sound(*parts[:2]):
            # it is made again, so nothing that it is not needed for has to stop
            warnings.warn(f"{self.path} is damaged or of another version: not measured", RuntimeWarning, stacklevel=1)
            return None
        return found


def _is_sound(cells: Mapping[str, Any], methods: Mapping[str, Any]) -> bool:
    """Whether every cell and method is a mapping, and every compressed cell's method is there."""
    if not all(isinstance(part, dict) for part in (*cells.values(), *methods.values())):
        return False
    return {cell.get("label") for cell in cells.values() if cell.get("budget")} <= methods.keys()


def read_panel(profile: str, model: str, benchmark: str) -> dict[str, Any] | None:
    """What was measured of one panel; see `Panel.read`.

    Args:
        model: as in the cells' ids, the last part of a path.
    """
    return Panel(profile, f"{model}/{benchmark}", ()).read()


def method_finding(measured: Mapping[str, Any], method: str) -> Mapping[str, Any] | None:
    """What a panel's file says of a method from its smallest to its largest budget; None if it has none of it.

    Of a method with variants (options of its own) the first, which is the one that the figures draw.

    Returns:
        `label`; `smallest`, `largest` (tokens, None: the full cache); `smallest_vs_largest` (`median`, `lo`, `hi`, or
        None); `verdict`: `FALLS`, `RISES`, `LEVEL`, `BUSY` or `ALONE`; and `cells`, one per budget, smallest first.
    """
    cells = [cell for cell in measured["cells"].values() if cell["method"] == method and cell["budget"] is not None]
    if not cells:
        return None
    label, by_budget = cells[0]["label"], {}
    for cell in cells:
        if cell["label"] == label:
            by_budget.setdefault(cell["budget"], cell)
    return {"label": label, **measured["methods"][label], "cells": [by_budget[b] for b in sorted(by_budget)]}


def was_machine_busy(measured: Mapping[str, Any]) -> bool:
    """Whether others kept the machine busy meanwhile: why a panel is `BUSY`, if not for noise of another kind."""
    return measured["load"]["mean"] > BUSY_LOAD
