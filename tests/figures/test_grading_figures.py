"""Figures of the grading notebook, and what the efficiency figures name."""

from __future__ import annotations

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from kvrepro.figures.efficiency import roofline
from kvrepro.figures.grading import graders_by_kind, interval_coverage


@pytest.fixture
def ax():
    yield plt.figure(layout="constrained").gca()
    plt.close("all")


def test_both_graders_stand_beside_each_other_by_kind(ax):
    rows = [
        ("choice", "strict", 60.0),
        ("choice", "compat", 70.0),
        ("latex", "strict", 80.0),
        ("latex", "compat", 50.0),
    ]
    frame = pd.DataFrame(rows, columns=["kind", "grader", "pass_at_1"])
    graders_by_kind(frame.assign(pass_at_1_lo=frame.pass_at_1 - 9, pass_at_1_hi=frame.pass_at_1 + 5), ax=ax)
    drawn = {bars.get_label(): bars.lines[0].get_xydata().tolist() for bars in ax.containers}
    assert drawn == {"strict": [[-0.1, 60.0], [0.9, 80.0]], "compat": [[0.1, 70.0], [1.1, 50.0]]}
    assert [text.get_text() for text in ax.get_xticklabels()] == ["choice", "latex"]


def test_coverage_is_drawn_in_percent_under_its_names(ax):
    interval_coverage(pd.DataFrame({"ours": [0.95, 0.96], "naive": [0.7, 0.71]}, index=[0.2, 0.3]), ax=ax)
    assert [line.get_xydata().tolist() for line in ax.get_lines()] == [[[20, 95], [30, 96]], [[20, 70], [30, 71]]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["93 to 97 %", "ours", "naive"]


def test_the_roofs_legend_names_loops_and_batches_and_no_columns(ax):
    point = {"slots": 9.0, "intensity": 1.0, "flops": 1e9, "roof": 2e9, "share": 0.5}
    rows = [{"variant": "window", "title": "our window", "rows": batch, **point} for batch in (8, 1)]
    roofline(pd.DataFrame(rows), 1e9, 1e10, title="a cpu", ax=ax)
    (legend,) = ax.figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert sorted(names) == ["batch 1", "batch 8", "our window", "roof: memory and product"]
