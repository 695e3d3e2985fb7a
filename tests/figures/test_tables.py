"""Tables of notebooks: headings in words, rounded numbers, bold rows, nothing of a cell is markup."""

from __future__ import annotations

from html.parser import HTMLParser

import pandas as pd

from kvrepro.figures.tables import p_values, show, with_interval

FRAME = pd.DataFrame(
    {
        "label": ["full", "<b>h2o</b>"],
        "budget_tokens": [float("nan"), 1760.0],
        "pass_at_1": [100.0, 12.345],
        "pass_at_1_lo": [96.4, 8.0],
        "pass_at_1_hi": [100.0, 20.0],
        "evictions": [0, 12345],
    }
)


class Cells(HTMLParser):
    """Text of every cell, and the names of the tags."""

    def __init__(self):
        super().__init__()
        self.tags, self.cells = set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data):
        if self.cells and self.tags:
            self.cells[-1] += data.strip()


def read(table):
    parsed = Cells()
    parsed.feed(table._repr_html_())
    return parsed


def test_columns_are_chosen_ordered_named_and_rounded():
    table = show(FRAME, {"pass_at_1": "Pass@1 (%)", "budget_tokens": "budget (tokens)", "evictions": "evictions"})
    assert read(table).cells == [
        "Pass@1 (%)",
        "budget (tokens)",
        "evictions",
        "100.0",
        "–",
        "0",
        "12.3",
        "1,760",
        "12,345",
    ]
    assert str(table).splitlines()[0].split() == ["Pass@1", "(%)", "budget", "(tokens)", "evictions"]
    assert str(table).splitlines()[2].split() == ["12.3", "1,760", "12,345"]


def test_columns_that_are_not_there_are_left_out_and_digits_are_by_name():
    table = show(FRAME, {"pass_at_1": "Pass@1", "minus_full": "minus full"}, digits={"pass_at_1": 3})
    assert read(table).cells == ["Pass@1", "100.000", "12.345"]


def test_text_of_cells_headings_and_captions_is_no_markup():
    table = show(FRAME.rename(columns={"evictions": "<u>"}), caption="<i>caption</i>")
    parsed = read(table)
    assert not {"b", "u", "i"} & parsed.tags
    assert {"<b>h2o</b>", "<u>"} <= set(parsed.cells)
    assert "&lt;i&gt;caption" in table._repr_html_()


def test_rows_that_matter_are_bold():
    html = show(FRAME, {"label": "method"}, bold=FRAME.label != "full")._repr_html_()
    rule = next(line for line in html.split("}") if "bold" in line)
    assert "row1_col0" in rule and "row0" not in rule
    assert "bold" not in show(FRAME)._repr_html_()


def test_words_stand_left_and_numbers_right():
    html = show(FRAME.assign(score=with_interval(FRAME, "pass_at_1")), {"label": "m", "score": "s"})._repr_html_()
    assert [rule for rule in html.split("}") if "text-align: left" in rule and ".col0" in rule]
    assert not [rule for rule in html.split("}") if "text-align: left" in rule and ".col1" in rule]


def test_intervals_and_p_values_are_words_and_missing_ones_dashes():
    assert with_interval(FRAME, "pass_at_1").to_list() == ["100.0 [96.4, 100.0]", "12.3 [8.0, 20.0]"]
    gone = FRAME.assign(pass_at_1=float("nan"))
    assert with_interval(gone, "pass_at_1").to_list() == ["–", "–"]
    assert p_values(pd.Series([0.00001, 0.0304, None])).to_list() == ["<0.001", "0.030", "–"]
