"""What the figures draw from small frames: lines, points, intervals, and what is missing."""

from __future__ import annotations

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import kvrepro
from kvrepro.figures.budget_curves import budget_curves, paper_values, reply_lengths
from kvrepro.figures.predictor import (
    accuracy_by_budget,
    fidelity_by_budget,
    kept_part_accuracy,
    overlap_by_k,
    sorted_curve,
)
from kvrepro.figures.theme import interval_lines, spread


@pytest.fixture
def ax():
    kvrepro.set_theme()
    yield plt.figure().gca()
    plt.close("all")


def points(ax):
    """(x, y) of every line that an interval belongs to."""
    return [np.round(np.array(bars.lines[0].get_data(), float), 6).tolist() for bars in ax.containers]


def test_lines_with_intervals_stand_apart_and_keep_their_order(ax):
    frame = pd.DataFrame(
        {"kind": ["b", "b", "a", "a"], "x": [2, 1, 1, 2], "y": [4.0, 3.0, 1.0, 2.0], "lo": 0.0, "hi": 5.0}
    )
    interval_lines(frame, "x", "y", "kind", ax=ax, colours={"a": "red"}, labels={"a": "A"}, apart=0.2)
    assert points(ax) == [[[0.9, 1.9], [3.0, 4.0]], [[1.1, 2.1], [1.0, 2.0]]]
    assert ax.get_legend_handles_labels()[1] == ["b", "A"]
    segments = ax.containers[0].lines[2][0].get_segments()
    assert [segment[:, 1].tolist() for segment in segments] == [[0.0, 5.0], [0.0, 5.0]]


def test_a_rounded_end_inside_its_estimate_is_no_negative_length():
    frame = pd.DataFrame({"y": [1.0, 0.5], "lo": [1.001, 0.4], "hi": [1.0, 0.7]})
    assert spread(frame, "y").tolist() == [[0.0, pytest.approx(0.1)], [0.0, pytest.approx(0.2)]]


def test_budget_curves_draw_cells_paper_and_what_is_missing(ax):
    row = {"benchmark": "chain-12", "pass_at_1_lo": 40.0, "pass_at_1_hi": 60.0, "decode_tps": 100.0}
    frame = pd.DataFrame(
        [
            row | {"method": "full", "budget_tokens": np.nan, "pass_at_1": 90.0},
            row | {"method": "dynts", "budget_tokens": 160.0, "pass_at_1": 50.0},
        ]
    )
    paper = {"chain-12": pd.DataFrame({"budget_tokens": [160], "pass_at_1": [70.0], "decode_tps": [80.0]})}
    panels = [("chain-12", "Chain", [160, 200]), ("sum-16", "Sum", [216])]
    figure = budget_curves(frame, panels, model_title="M", paper=paper)
    left, empty = figure.axes[:2]
    assert [bar.get_height() for bar in left.patches] == [50.0]
    assert [text.get_text() for text in left.texts] == [text.get_text() for text in empty.texts] == ["missing"]
    hollow = [line for line in left.get_lines() if line.get_marker() == "D"]
    assert [line.get_ydata().tolist() for line in hollow] == [[70.0]]
    assert len(figure.legends[0].get_texts()) == 4
    plt.close(figure)


def test_the_paper_shows_its_two_models():
    assert len(paper_values("R1-Llama", "AIME24")) > 3
    assert paper_values("R1-Llama", "MATH500").empty


def test_percent_figures_show_percent_and_the_full_cache(ax):
    frame = pd.DataFrame({"kind": "dynts", "budget_tokens": [176, 240], "pass_at_1": [50.0, 60.0], "lo": 40, "hi": 70})
    accuracy_by_budget(frame, full=93.0, ax=ax)
    assert points(ax) == [[[176, 240], [50.0, 60.0]]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["full cache", "dynts"]


def test_fractions_become_percent(ax):
    frame = pd.DataFrame({"predictor": "head", "k_percent": [10, 20], "mean": [0.5, 0.6], "lo": 0.4, "hi": 0.7})
    overlap_by_k(frame, ax=ax)
    assert points(ax) == [[[10, 20], [50.0, 60.0]]]
    values = {"kind": "dynts", "budget_tokens": [176, 240], "mean": [0.5, 0.6], "lo": 0.4, "hi": 0.7}
    bent = pd.concat([pd.DataFrame(values).assign(measure=m) for m in ("agrees", "kl")])
    for measure, factor in (("agrees", 100), ("kl", 1)):
        drawn = fidelity_by_budget(bent, measure, ax=plt.figure().gca())
        assert points(drawn) == [[[176, 240], [0.5 * factor, 0.6 * factor]]]


def test_the_top_share_is_read_off_the_curve(ax):
    share = np.array([0.1, 0.2, 1.0])
    sorted_curve(pd.DataFrame({"share": share, "mass_mean": [0.4, 0.6, 1.0], "mass_lo": 0.3, "mass_hi": 1.0}), ax=ax)
    assert [text.get_text() for text in ax.texts] == ["top 20 %: 60.0 %"]


def test_choices_of_any_scores_have_a_line(ax):
    names = ["oracle top", "bottom", "top"]
    frame = pd.DataFrame({"choice": names, "share": 0.1, "accuracy": 50.0, "lo": 40.0, "hi": 60.0})
    kept_part_accuracy(frame, full=90.0, ax=ax)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["whole thought", "top", "bottom", "oracle top"]


def test_reply_lengths_are_stacked_by_verdict(ax):
    records = pd.DataFrame({"n_thinking_tokens": [10, 20, 30], "n_answer_tokens": 5, "correct": [True, False, True]})
    reply_lengths(records, max_new_tokens=64, ax=ax)
    assert sum(bar.get_height() for bar in ax.patches) == 3
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["right", "wrong"]
