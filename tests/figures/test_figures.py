"""What the figures draw from small frames: lines, points, intervals, and what is missing."""

from __future__ import annotations

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import kvrepro
from kvrepro.analysis.budget_findings import throughput_half
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


def cells(*rows, benchmark="chain-12", full=None):
    """Summary rows from (budget, Pass@1, tokens/s or None), and of the full cache from (Pass@1, tokens/s)."""
    frame = pd.DataFrame(
        [("dynts", *row) for row in rows] + ([("full", None, *full)] if full else []),
        columns=["method", "budget_tokens", "pass_at_1", "decode_tps"],
    ).astype({"budget_tokens": "Int64", "decode_tps": float})
    spans = {f"{n}_{end}": frame[n] + by for n, by in (("pass_at_1", 5), ("decode_tps", 90)) for end, by in _ends(by)}
    return frame.assign(benchmark=benchmark, **spans)


def _ends(by):
    return (("lo", -by), ("hi", by))


def drawn(frame, *budgets, **more):
    """A figure of one panel: itself, the Axes of Pass@1 and that of throughput."""
    figure = budget_curves(frame, [("chain-12", "Chain", budgets)], model_title="M", **more)
    figure.canvas.draw()
    return figure, *figure.axes


def line(right):
    return right.get_lines()[0].get_ydata()


def levels(axes):
    """Dashed lines from edge to edge."""
    return [each for each in axes.get_lines() if each.get_linestyle() == "--"]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_budget_curves_draw_cells_paper_and_what_is_missing(ax):
    paper = {"chain-12": pd.DataFrame({"budget_tokens": [160], "pass_at_1": [70.0], "decode_tps": [80.0]})}
    panels = [("chain-12", "Chain", [160, 200]), ("sum-16", "Sum", [216])]
    frame = cells((160, 50.0, 100.0), full=(90.0, 60.0))
    figure = budget_curves(frame, panels, model_title="M", paper=paper)
    left, empty = figure.axes[:2]
    assert [bar.get_height() for bar in left.patches if bar.get_height() > 0] == [50.0]
    assert texts(left) == ["50.0", "missing"] and texts(empty) == ["missing"]
    hollow = [line for line in left.get_lines() if line.get_marker() == "D"]
    assert [line.get_ydata().tolist() for line in hollow] == [[70.0, pytest.approx(np.nan, nan_ok=True)]]
    assert hollow[0].get_markerfacecolor() == "none"
    assert len(figure.legends[0].get_texts()) == 6
    plt.close(figure)


def test_throughput_has_a_band_and_the_full_cache_a_level_of_its_colour(ax):
    _, left, right = drawn(cells((160, 50.0, 3000.0), (200, 80.0, 2000.0), full=(90.0, 1500.0)), 160, 200)
    assert line(right).tolist() == [3000.0, 2000.0]
    band = right.collections[0].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == (1910.0, 3090.0)
    assert [float(each.get_ydata()[0]) for each in levels(left)] == [90.0]
    (level,) = levels(right)
    assert level.get_ydata()[0] == 1500.0
    assert level.get_color() == right.get_lines()[0].get_color() == right.yaxis.label.get_color()
    assert right.get_ylabel() == "Throughput (tokens/s)"


def test_of_two_rows_of_a_budget_the_first_is_drawn(ax):
    _, left, _ = drawn(cells((160, 50.0, 3000.0), (160, 60.0, 2000.0)), 160)
    assert texts(left) == ["50.0"]


def test_no_line_crosses_a_budget_that_is_missing(ax):
    _, _, right = drawn(cells((160, 50.0, 3000.0), (240, 80.0, 2000.0)), 160, 200, 240)
    assert np.isnan(line(right)).tolist() == [False, True, False]
    # both stand alone: no band, but a bar each
    assert [np.ptp(path.vertices[:, 0]) for path in right.collections[0].get_paths()] == [0.0, 0.0]
    (bars,) = right.containers
    assert [np.ptp(each[:, 1]) for each in bars.lines[2][0].get_segments()] == [180.0, 180.0]


@pytest.mark.parametrize("n", [2, 6])
@pytest.mark.parametrize(("mean", "more"), [(None, ""), (0.47, ": machine busy (load 47 %)"), (0.0, ": too noisy")])
def test_without_throughput_a_panel_says_why_and_has_no_second_scale(ax, n, mean, more):
    words = throughput_half(mean if mean is None else {"verdict": "busy", "load": {"mean": mean, "max": 1.0}})
    assert words.startswith(f"throughput not measured{more}")
    budgets = [160 + 40 * i for i in range(n)]
    frame = cells(*((budget, 100.0, None) for budget in budgets), full=(90.0, None))
    figure, left, right = drawn(frame, *budgets, **({"without": {"chain-12": words}} if mean is not None else {}))
    assert texts(right) == [words]
    assert right.texts[0].get_color() == right.get_lines()[0].get_color()
    assert right.get_yticks().size == 0 and right.get_ylabel() == "" and levels(right) == []
    assert len(levels(left)) == 1
    # the words touch no number, and nothing the title
    boxes = [text.get_window_extent() for text in (*left.texts, *right.texts, left.title)]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    frame_of, said = left.get_window_extent(), right.texts[0].get_window_extent()
    assert frame_of.xmin < said.xmin and said.xmax < frame_of.xmax
    plt.close(figure)


def test_the_scale_is_named_at_the_last_panel_that_has_one(ax):
    frame = pd.concat([cells((160, 50.0, 3000.0)), cells((160, 50.0, None), benchmark="sum-16")])
    panels = [(name, name, [160]) for name in ("chain-12", "sum-16")]
    figure = budget_curves(frame, panels, model_title="M")
    assert [axes.get_ylabel() for axes in figure.axes] == ["Pass@1 (%)", "", "Throughput (tokens/s)", ""]
    plt.close(figure)


@pytest.mark.parametrize("n", [4, 6])
@pytest.mark.parametrize("full", [(100.0, 3000.0), (100.0, 9000.0), (69.5, 2200.0), (3.0, 2200.0), None])
def test_numbers_stand_clear_of_all_that_is_drawn(ax, n, full):
    rows = [(160 + 24 * i, 100 * (i + 1) / n, 3090.0 - 200 * i) for i in range(n)]
    figure, left, right = drawn(cells(*rows, full=full), *(row[0] for row in rows))
    numbers = [text.get_window_extent() for text in left.texts]
    assert len(numbers) == n
    lowest = min(box.ymin for box in numbers)
    assert not any(a.overlaps(b) for i, a in enumerate(numbers) for b in numbers[:i])
    for axes, names in ((left, "pass_at_1"), (right, "decode_tps")):
        highest = cells(*rows, full=full)[f"{names}_hi" if axes is right else names].max()
        assert axes.transData.transform((0, highest))[1] < lowest
    assert max(box.ymax for box in numbers) < left.get_window_extent().ymax < left.title.get_window_extent().ymin
    heights = [each.get_transform().transform((0, each.get_ydata()[0]))[1] for a in (left, right) for each in levels(a)]
    assert len(heights) == (2 if full else 0)
    assert not full or abs(heights[0] - heights[1]) > 5
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
    legend, frame = ax.get_legend().get_window_extent(), ax.get_window_extent()
    assert legend.xmin >= frame.xmax


def test_reply_lengths_of_a_model_that_does_not_think_name_what_there_is(ax):
    records = pd.DataFrame({"n_thinking_tokens": 0, "n_answer_tokens": [5, 9], "correct": False})
    reply_lengths(records, max_new_tokens=64, ax=ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["wrong"]
    assert sum(bar.get_height() for bar in ax.patches) == 2
