"""Tables of the page: what stands in a field, and by what it is sorted and filtered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ..runs.config import CellConfig

# how a column is filtered: by one of its values, by a part of the text, by a bound such as `> 50`; empty: not at all
FILTERS = CHOICE, TEXT, NUMBER = "choice", "text", "number"
_DASH = "\N{EN DASH}"  # what was not measured
# of a cell, what a label does not name
_SIZES = ("window", "ratio", "evict_every", "protocol", "predictor", "calibration", "judge", "seed", "prompt_style")


@dataclass(frozen=True)
class Column:
    """A head: its name, its filter, and whether numbers stand below it."""

    name: str
    filter: str = ""
    is_number: bool = False


def column(name: str, filtered: str = "", *, is_number: bool | None = None) -> Column:
    """A head; where nothing is said, numbers are what is filtered as such and what is not filtered at all."""
    return Column(name, filtered, filtered in (NUMBER, "") if is_number is None else is_number)


def method_names(cells: Sequence[CellConfig]) -> dict[str, str]:
    """By cell what its method is called: the label, with window and ratio where the label and budget name several."""
    places: dict[tuple, list[CellConfig]] = {}
    for cell in cells:
        places.setdefault((cell.model, cell.benchmark, cell.label, cell.budget), []).append(cell)
    names = {}
    for alike in places.values():
        varied = [name for name in _SIZES if len({getattr(cell, name) for cell in alike}) > 1]
        for cell in alike:
            sizes = ", ".join(f"{name.replace('_', ' ')} {getattr(cell, name)}" for name in varied)
            names[cell.cell_id] = f"{cell.label} ({sizes})" if sizes else cell.label
    return names


@dataclass(frozen=True)
class Link:
    """A text that leads somewhere."""

    text: str
    link: str


@dataclass(frozen=True)
class Field:
    """A field: `key` is what it is sorted by, None sorts by the text."""

    text: str
    key: float | None = None
    is_number: bool = False
    tag: str = "td"
    link: str = ""
    more: Sequence[Link] = ()

    @classmethod
    def number(cls, value: float | None, form: str = "", unit: str = "") -> Field:
        """A number as the format says, or a dash where there is none."""
        if pd.isna(value):
            return cls(_DASH, is_number=True)
        return cls(f"{value:{form}}{unit}", key=float(value), is_number=True)


@dataclass(frozen=True)
class Row:
    """A row, and whether it tells of something that is missing."""

    fields: Sequence[Field]
    is_missing: bool = False


@dataclass(frozen=True)
class Table:
    """Heads and rows."""

    columns: Sequence[Column]
    rows: Sequence[Row]
