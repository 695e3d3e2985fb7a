"""Tables of notebooks: columns in words, numbers rounded, rows that matter bold, a long one in a block that scrolls."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd

DASH = "\N{EN DASH}"  # what is not there
# the colours of JupyterLab's theme where there is one
_GROUND, _TEXT = "var(--jp-layout-color0, Canvas)", "var(--jp-content-font-color1, CanvasText)"
_NUMBER = re.compile(rf"[-+<\d{DASH}]")  # how the text of a number begins
_STYLES = [
    {"selector": "", "props": f"border-collapse:collapse;margin:0;color:{_TEXT};background:{_GROUND}"},
    {"selector": "th, td", "props": "padding:.2em .5em;text-align:right;vertical-align:top;white-space:nowrap"},
    {"selector": "th", "props": f"position:sticky;top:0;background:{_GROUND};white-space:normal;vertical-align:bottom"},
    {"selector": "caption", "props": "caption-side:top;text-align:left;padding:.3em .6em;font-size:1em"},
]


@dataclass(frozen=True)
class Table:
    """A table as a notebook shows it: HTML, or text where there is none.

    Attributes:
        frame: as it was given, under the headings.
        height: of the block in em before it scrolls.
    """

    frame: pd.DataFrame
    forms: Mapping[str, str]
    bold: tuple[int, ...]
    caption: str
    height: float

    def _repr_html_(self) -> str:
        # a frame may hold text of a model, and its headings may
        style = self.frame.style.format(self.forms, na_rep=DASH, escape="html").hide(axis="index")
        style = style.format_index(escape="html", axis="columns").set_table_styles(_STYLES)
        left = [{"selector": "", "props": "text-align:left"}]
        style = style.set_table_styles({name: left for name in self.frame if self._is_words(name)}, overwrite=False)
        if self.bold:
            style = style.set_properties(subset=(list(self.bold), slice(None)), **{"font-weight": "bold"})
        if self.caption:
            style = style.set_caption(escape(self.caption))
        return f'<div tabindex="0" style="max-height:{self.height}em;overflow:auto">{style.to_html()}</div>'

    def _is_words(self, name: str) -> bool:
        values = self.frame[name].dropna()
        return not pd.api.types.is_numeric_dtype(values) and not all(_NUMBER.match(str(value)) for value in values)

    def __repr__(self) -> str:
        shown = self.frame.copy().astype(object)
        for name in self.frame:
            form = self.forms.get(name, "{}").format
            shown[name] = [DASH if pd.isna(value) else form(value) for value in self.frame[name]]
        return "\n".join(filter(None, [self.caption, shown.to_string(index=False)]))


def show(
    frame: pd.DataFrame,
    columns: Mapping[str, str] | None = None,
    *,
    digits: int | Mapping[str, int] = 1,
    bold: pd.Series | None = None,
    caption: str = "",
    height: float = 24.0,
) -> Table:
    """A frame for readers.

    Args:
        columns: those to show, in this order, and their headings, with units; all under their own names without. Of
            those that the frame has not, none is shown.
        digits: decimals of numbers that are not whole, of all columns or by name (others have 1).
        bold: rows that stand out, a boolean each.
        caption: over the table, plain text.
        height: of the block in em; a longer table scrolls in it under its headings.
    """
    columns = {name: str(name) for name in frame} if columns is None else columns
    columns = {name: heading for name, heading in columns.items() if name in frame}
    rows = () if bold is None else tuple(i for i, stands_out in enumerate(bold) if stands_out)
    frame = frame[list(columns)].reset_index(drop=True)
    forms = {}
    for name, heading in columns.items():
        places = digits if isinstance(digits, int) else digits.get(name, 1)
        if pd.api.types.is_float_dtype(frame[name]):
            # budgets beside a row without one are whole numbers all the same
            is_whole = frame[name].hasnans and (frame[name].dropna() % 1 == 0).all()
            forms[heading] = "{:,.0f}" if is_whole else f"{{:,.{places}f}}"
        elif pd.api.types.is_integer_dtype(frame[name]):
            forms[heading] = "{:,}"
    return Table(frame.rename(columns=columns), forms, rows, caption, height)


def with_interval(frame: pd.DataFrame, name: str, digits: int = 1) -> pd.Series:
    """`93.0 [86.3, 96.6]` of the columns `name`, `name_lo` and `name_hi`; a dash where there is no value."""
    ends = frame[[name, f"{name}_lo", f"{name}_hi"]].itertuples(index=False)
    texts = [DASH if pd.isna(v) else f"{v:,.{digits}f} [{lo:,.{digits}f}, {hi:,.{digits}f}]" for v, lo, hi in ends]
    return pd.Series(texts, frame.index, dtype=object)


def p_values(values: pd.Series) -> pd.Series:
    """`<0.001`, or three digits; a dash where nothing was compared."""
    texts = [DASH if pd.isna(p) else "<0.001" if p < 0.001 else f"{p:.3f}" for p in values]
    return pd.Series(texts, values.index, dtype=object)


@dataclass(frozen=True)
class Sentences:
    """What a notebook concludes, a list item each, under headings or none: HTML, or text where there is none."""

    lines: Mapping[str, Sequence[str]]

    @property
    def _told(self) -> list[tuple[str, Sequence[str]]]:
        return [(heading, lines) for heading, lines in self.lines.items() if lines]

    def _repr_html_(self) -> str:
        lists = []
        for heading, lines in self._told:
            items = "".join(f'<li style="margin:.3em 0">{escape(line)}</li>' for line in lines)
            head = f'<p style="margin:.8em 0 .2em"><b>{escape(heading)}</b></p>' if heading else ""
            lists.append(f'{head}<ul style="margin-top:0">{items}</ul>')
        return f'<div style="max-width:60em">{"".join(lists)}</div>'

    def __repr__(self) -> str:
        parts = [[heading, *(f"- {line}" for line in lines)] for heading, lines in self._told]
        return "\n".join(text for part in parts for text in part if text)


def conclude(lines: Sequence[str] | Mapping[str, Sequence[str]]) -> Sentences:
    """Computed sentences for readers, or such by heading, to be the last line of a notebook's cell."""
    return Sentences(lines if isinstance(lines, Mapping) else {"": list(lines)})


# column of `method_table` -> heading
_METHOD_COLUMNS = {
    "label": "method",
    "budget_tokens": "budget (slots)",
    "score": "Pass@1 (%)",
    "mark": "best",
    "to_full": "minus full (points)",
    "minus_full_p": "p, full",
    "to_dynts": "minus dynts (points)",
    "minus_dynts_p": "p, dynts",
    "kv_tokens_peak": "most slots held",
}


@dataclass(frozen=True)
class Tables:
    """Several tables, one under the other."""

    tables: tuple[Table, ...]

    def _repr_html_(self) -> str:
        return "<br>".join(table._repr_html_() for table in self.tables)

    def __repr__(self) -> str:
        return "\n\n".join(map(repr, self.tables))


def show_methods(table: pd.DataFrame, height: float = 17.0) -> Tables:
    """What `method_table.method_table` found, a table per model and benchmark, the highest score first.

    Scores and differences have their 95 % intervals.
    """
    marks = table.is_as_good.map({True: "as good", False: ""}).mask(table.is_best, "best")
    words = table.assign(score=with_interval(table, "pass_at_1", 0), mark=marks)
    for name in ("full", "dynts"):
        if f"minus_{name}" in table:
            words[f"to_{name}"] = with_interval(table, f"minus_{name}", 0)
            words[f"minus_{name}_p"] = p_values(table[f"minus_{name}_p"])
    found = []
    for (model, benchmark), part in words.groupby(["model", "benchmark"], sort=False):
        part = part.sort_values("pass_at_1", ascending=False, kind="stable")
        size = f"{part.n_problems.max()} problems x {part.n_samples.max()} sample(s)"
        caption = f"{model}, {benchmark}, {size}"
        found.append(show(part, _METHOD_COLUMNS, bold=part.is_best, caption=caption, height=height))
    return Tables(tuple(found))
