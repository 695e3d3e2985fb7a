"""Paired differences of a profile that has several methods at a budget: the table, and what it says in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ..analysis.method_table import FULL, REFERENCE, ScoredCell, method_table
from ..errors import KvreproError
from ..models.table import model_entry
from ..scores.sentences import difference_sentence, p_text
from ..scores.statistics import paired_comparison
from .tables import Field, Row, Table, column

EXPLANATION = (
    "Points of Pass@1, paired by problem, with 95 % intervals and p-values adjusted after Holm within model, benchmark, "
    "budget and comparison."
)


@dataclass(frozen=True)
class Differences:
    """What the page shows of them."""

    explanation: str
    sentences: Sequence[str]
    table: Table


def paired_differences(cells: Sequence[ScoredCell]) -> Differences | None:
    """Differences of all cells to the full cache and to the reference of the same budget; None without two methods.

    Args:
        cells: of `method_table.scored_cells`.
    """
    sentences, rows = [], []
    for group in _groups(cells):
        place = f"{model_entry(group[0].config.model).title}, {group[0].config.benchmark}, {_size(group)}"
        try:
            frame = method_table(group)
        except KvreproError as error:
            sentences.append(f"{place}: not compared, {error}")
            continue
        sentences += [f"{place}: {text}" for text in _sentences(group, frame)]
        rows += _rows(group, frame)
    if not rows and not sentences:
        return None
    names = [("model", "choice"), ("benchmark", "choice"), ("budget", "choice"), ("method", "text")]
    heads = [column(name, kind, is_number=name == "budget") for name, kind in names] + [column("Pass@1 (%)", "number")]
    for name in (FULL, REFERENCE):
        heads += [column(f"minus {name}", "number"), column("95 %", ""), column("p", "number")]
    return Differences(EXPLANATION, sentences, Table(heads, rows))


def _size(group: Sequence[ScoredCell]) -> str:
    return f"{next(cell.config.budget for cell in group if cell.config.budget is not None):,} tokens"


def _groups(cells: Sequence[ScoredCell]) -> list[list[ScoredCell]]:
    """By model, benchmark, protocol and budget the cells that have it, the full cache first, where methods are two."""
    full: dict[tuple[str, str], list[ScoredCell]] = {}
    groups: dict[tuple, list[ScoredCell]] = {}
    for cell in cells:
        config = cell.config
        if config.budget is None:
            full.setdefault((config.model, config.benchmark), [cell])
        else:
            groups.setdefault((config.model, config.benchmark, config.protocol, config.budget), []).append(cell)
    return [
        full.get((key[0], key[1]), []) + group
        for key, group in groups.items()
        if len({cell.config.label for cell in group}) > 1
    ]


def _sentences(group: Sequence[ScoredCell], frame: pd.DataFrame) -> list[str]:
    """The best of the others against the reference, and the best of all against the full cache."""
    best, other = _best(group), _best([cell for cell in group if cell.config.label != REFERENCE])
    found = []
    for first, name in ((other, REFERENCE), (best, FULL)):
        base = next((cell for cell in group if cell.config.label == name), None)
        if first is not None and base is not None and base is not first:
            p_value = frame[f"minus_{name}_p"][group.index(first)]
            compared = paired_comparison(first.by_problem, base.by_problem)
            found.append(difference_sentence(first.config.label, name, compared, p_value))
    return found


def _best(cells: Sequence[ScoredCell]) -> ScoredCell | None:
    compressed = [cell for cell in cells if cell.config.budget is not None]
    return max(compressed, key=lambda cell: cell.row["pass_at_1"], default=None)


def _rows(group: Sequence[ScoredCell], frame: pd.DataFrame) -> list[Row]:
    """A row per cell with a budget; the frame's rows are the group's."""
    rows = []
    for cell, row in zip(group, frame.to_dict("records"), strict=True):
        config = cell.config
        if config.budget is None:
            continue
        fields = [
            Field(model_entry(config.model).title),
            Field(config.benchmark),
            Field.number(config.budget, ","),
            Field(config.label, tag="th", link=f"{config.cell_id}/replies.html"),
            Field.number(row["pass_at_1"], ".1f"),
        ]
        for name in (FULL, REFERENCE):
            fields += _difference(row, f"minus_{name}")
        rows.append(Row(fields))
    return rows


def _difference(row: dict, name: str) -> list[Field]:
    if pd.isna(row.get(name)):
        return [Field.number(None)] * 3
    lo, hi, p_value = (row[f"{name}_{end}"] for end in ("lo", "hi", "p"))
    p_shown = p_text(p_value).removeprefix("= ")
    return [
        Field.number(row[name], "+.1f"),
        Field(f"{lo:+.1f} to {hi:+.1f}", is_number=True),
        Field(p_shown, is_number=True, key=p_value),
    ]
