"""Paired differences of a profile that has several methods at a budget: the table, and what it says in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pandas as pd

from ..analysis.comparison import Comparison
from ..analysis.method_findings import method_findings, panels
from ..analysis.method_table import FULL, REFERENCE, ScoredCell, first_of_each_label, method_table, scored_cells
from ..errors import KvreproError
from ..models.table import model_entry
from ..runs.profiles import COMPARISON, Profile
from ..scores.sentences import p_text
from .tables import CHOICE, NUMBER, TEXT, Field, Row, Table, column, method_names

_POINTS = "Points of Pass@1, paired by problem, with 95 % intervals; p-values are adjusted after Holm within"
_OF_METHODS = f"{_POINTS} model, benchmark, budget and column."
_OF_COMPARISON = f"{_POINTS} model, benchmark and column."


@dataclass(frozen=True)
class Differences:
    """What the page shows of them: sentences by `model, benchmark, budget`, and the table."""

    sentences: Mapping[str, Sequence[str]]
    table: Table
    explanation: str


def paired_differences(profile: Profile) -> Differences | None:
    """Differences to the full cache, and to `dynts` or the method that a comparison asks about.

    None where no model and benchmark has two methods at a budget.
    """
    is_comparison = profile.name.startswith(COMPARISON)
    return _of_comparison(profile) if is_comparison else _of_methods(profile)


def _of_methods(profile: Profile) -> Differences | None:
    sentences, rows, names = {}, [], method_names(profile.cells)
    columns = {f"minus {FULL}": f"minus_{FULL}", f"minus {REFERENCE}": f"minus_{REFERENCE}"}
    # other sizes of a method are other questions, and would be compared with the first
    for title, cells in panels(first_of_each_label(scored_cells(profile))):
        if len([cell for cell in cells if cell.config.method != FULL]) < 2:
            continue
        try:
            frame = method_table(cells)
            sentences |= method_findings(cells)
        except KvreproError as error:
            sentences[title] = [f"Not compared: {error}."]
        else:
            rows += _rows(cells, frame, columns.values(), names)
    return Differences(sentences, Table(_heads(columns), rows), _OF_METHODS) if sentences else None


def _of_comparison(profile: Profile) -> Differences | None:
    if not any(folder.is_complete for folder in profile.folders):
        # which the page says already
        return None
    try:
        found = Comparison.of(profile)
    except KvreproError as error:
        return Differences({profile.title: [f"Not compared: {error}."]}, Table(_heads(()), []), _OF_COMPARISON)
    sentences = {f"{model_entry(c.cells[0].config.model).title}, {c.benchmark}": c.sentences for c in found}
    rows, names = [], method_names(profile.cells)
    for compared in found:
        rows += _rows(compared.cells, compared.table, ("first_minus", "minus_full"), names)
    firsts = " or ".join(dict.fromkeys(c.first for c in found))
    heads = _heads((f"{firsts} minus it", f"minus {FULL}"))
    sizes = "; ".join(dict.fromkeys(c.sizes for c in found if c.sizes))
    about = f"{_OF_COMPARISON} Sizes: {sizes}."
    return Differences(sentences, Table(heads, rows), about) if rows else None


def _heads(columns):
    heads = [column("model", CHOICE), column("benchmark", CHOICE), column("method", TEXT)]
    heads += [column("budget", CHOICE, is_number=True), column("Pass@1 (%)", NUMBER)]
    for name in columns:
        heads += [column(name, NUMBER), column("95 %"), column("p", NUMBER)]
    return heads


def _rows(cells: Sequence[ScoredCell], frame: pd.DataFrame, columns, names: Mapping[str, str]) -> list[Row]:
    """A row per cell with a budget; the frame's rows are those of the cells."""
    rows = []
    for cell, row in zip(cells, frame.to_dict("records"), strict=True):
        config = cell.config
        if config.budget is None:
            continue
        fields = [
            Field(model_entry(config.model).title),
            Field(config.benchmark),
            Field(names[config.cell_id], tag="th", link=f"{quote(config.cell_id)}/replies.html"),
            Field.number(config.budget, ","),
            Field.number(row["pass_at_1"], ".1f"),
        ]
        rows.append(Row([*fields, *(field for name in columns for field in _difference(row, name))]))
    return rows


def _difference(row: Mapping[str, Any], name: str) -> list[Field]:
    if pd.isna(row.get(name)):
        return [Field.number(None)] * 3
    # the t interval knows no ends
    lo, hi, p_value = max(-100.0, row[f"{name}_lo"]), min(100.0, row[f"{name}_hi"]), row[f"{name}_p"]
    return [
        Field.number(row[name], "+.1f"),
        Field(f"{lo:+.1f} to {hi:+.1f}", is_number=True),
        Field(p_text(p_value).removeprefix("= "), is_number=True, key=p_value),
    ]
