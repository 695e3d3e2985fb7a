"""Figures of methods: every row is drawn and named, a few stand out, names of lines touch nothing."""

from __future__ import annotations

import itertools

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Text

import kvrepro
from kvrepro.analysis.method_table import average_table, method_table, pinning_table
from kvrepro.figures.methods import (
    average_bars,
    fidelity_curves,
    fidelity_panels,
    pinning_map,
    short_labels,
    window_ratio_map,
    window_ratio_maps,
)
from kvrepro.figures.theme import BEST, FULL, LINE, NOTE, PAGE, RANDOM, REST

from ..analysis.test_method_table import make_cell


@pytest.fixture(autouse=True)
def _figures():
    kvrepro.set_theme()
    yield
    plt.close("all")


def contrast(colour, ground="white"):
    """Of two colours, as WCAG 2 defines it."""

    def luminance(name):
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(name)]
        return float(np.dot(parts, [0.2126, 0.7152, 0.0722]))

    low, high = sorted(luminance(c) for c in (colour, ground))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colour", [LINE, FULL, BEST, RANDOM, NOTE])
def test_colours_of_words_can_be_read(colour):
    assert contrast(colour) >= 4.5


def names(ax):
    return [text.get_text() for text in ax.get_yticklabels()]


def test_bars_are_sorted_named_and_a_few_stand_out():
    cells = [make_cell("full", 20), make_cell("h2o", 4), make_cell("h2o", 9, options={"pin_question": True})]
    cells += [make_cell("random", 6), make_cell("dynts", 8)]
    figure = average_bars(average_table(cells), title="t")
    ax, slots = figure.axes
    assert names(ax) == ["full", "h2o + question", "dynts", "random", "h2o"]
    assert [p.get_width() for p in ax.patches] == [100.0, 45.0, 40.0, 30.0, 20.0]
    assert [to_hex(p.get_facecolor()) for p in ax.patches] == [FULL, BEST, LINE, RANDOM, REST]
    assert [text.get_text() for text in ax.texts] == ["100", "45", "40", "30", "20"]
    # what each held is a mark of its own: no line joins bars that have nothing to do with each other
    assert slots.collections[0].get_offsets().tolist() == [[180.0, y] for y in range(5)]
    assert slots.get_lines() == [] and figure.get_size_inches()[0] <= PAGE


def test_labels_lose_the_switches_that_tell_nothing_apart():
    labels = [
        "full",
        "h2o",
        "h2o + question",
        "rkv + a=1",
        "rkv + a=1 + question",
        "tova + a=1",
        "tova + a=2",
        "gkv + question",
    ]
    short = ["full", "h2o", "h2o + question", "rkv", "rkv + question", "tova + a=1", "tova + a=2", "gkv + question"]
    assert short_labels(labels) == short


def test_pinning_is_told_by_score_and_panel_the_most_gain_first():
    pin = {"pin_question": True}
    cells = [make_cell("full", 20)]
    for name, alone, pinned in (("gkv", 9, 6), ("h2o", 4, 9)):
        cells += [make_cell(name, alone), make_cell(name, pinned, options=pin)]
    other = [make_cell("h2o", 5, "tiny-r1-qwen"), make_cell("h2o", 10, "tiny-r1-qwen", options=pin)]
    (ax,) = pinning_map(pinning_table(method_table([*cells, *other])), title="t").axes
    assert names(ax) == ["h2o", "gkv"]
    # gkv was not run on the second model
    assert [text.get_text() for text in ax.texts] == ["20 → 45", "25 → 50", "45 → 30"]
    assert [text.get_text() for text in ax.get_xticklabels()] == [
        "tiny-r1-llama\nchain-12\n160 slots",
        "tiny-r1-qwen\nchain-12\n160 slots",
    ]


@pytest.mark.parametrize("gain", [-100.0, 0.0, 100.0])
def test_numbers_on_a_map_can_be_read(gain):
    frame = pd.DataFrame(
        {
            "model": "m",
            "benchmark": "b",
            "score": ["s"],
            "budget_tokens": 1,
            "alone": 50.0,
            "question": 50.0,
            "gain": gain,
        }
    )
    (ax,) = pinning_map(frame, title="t").axes
    ax.figure.canvas.draw()
    assert contrast(ax.texts[0].get_color(), ax.collections[0].get_facecolors()[0]) >= 4.5
    heat = window_ratio_map(
        pd.DataFrame({"window": [8], "ratio": 0.5, "pass_at_1": abs(gain)}), title="t", ax=plt.figure().gca()
    )
    heat.figure.canvas.draw()
    assert contrast(heat.texts[0].get_color(), heat.collections[0].get_facecolors()[0]) >= 4.5


def test_a_map_of_window_and_ratio_has_a_panel_per_budget():
    frame = pd.DataFrame({"window": [8, 8, 16], "ratio": [0.5, 0.75, 0.5], "pass_at_1": [10.0, 20.0, 30.0]})
    frame = frame.assign(model="m", benchmark="b", budget_tokens=208)
    figure = window_ratio_maps(pd.concat([frame, frame.assign(budget_tokens=240), frame.assign(model="n")]), title="t")
    assert [ax.get_title() for ax in figure.axes] == ["m\nb, 208 slots", "m\nb, 240 slots", "n\nb, 208 slots"]
    heat = figure.axes[0]
    assert [t.get_text() for t in heat.texts] == ["30", "10", "20"]
    assert names(heat) == ["16", "8"]


def fidelity(*labels, **columns):
    """KL falls from method to method and with the budget; the first is the furthest."""
    rows = [
        {"label": label, "budget_tokens": budget, "kl": 0.5 / (i + 1) / k, "kl_lo": 0.0, "kl_hi": 1.0, **columns}
        for i, label in enumerate(labels)
        for k, budget in enumerate((96, 128), start=1)
    ]
    return pd.DataFrame(rows)


def test_lines_are_named_at_their_ends_and_a_few_have_colour_and_a_band():
    ax = fidelity_curves(fidelity("h2o", "random", "dynts", "rkv", "oracle_future"), "kl", ax=plt.figure().gca())
    colours = {"h2o": REST, "random": RANDOM, "dynts": LINE, "rkv": BEST, "oracle_future": "black"}
    assert {line.get_label(): line.get_color() for line in ax.get_lines()} == colours
    assert {text.get_text(): text.get_color() for text in ax.texts} == {**colours, "h2o": NOTE}
    assert len(ax.collections) == 4 and ax.get_legend() is None
    assert ax.get_yscale() == "log"


@pytest.mark.parametrize("n", [2, 16, 23])
def test_names_of_lines_touch_neither_each_other_nor_the_edge(n):
    table = fidelity(*(f"method_{i}" for i in range(n)))
    figure = fidelity_panels(table.assign(kl=0.1 + 1e-6 * table.kl), title="t")
    figure.canvas.draw()
    # without the thin line to its end, which is part of an annotation
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]
    assert len(boxes) == n and figure.get_size_inches()[0] <= PAGE
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    assert all(box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)


def test_a_model_that_does_not_think_has_no_panel_of_answers():
    table = fidelity("h2o", "dynts", agrees=0.9, agrees_lo=0.8, agrees_hi=1.0, answer_log_likelihood=np.nan)
    assert [ax.get_ylabel().split(" (")[0] for ax in fidelity_panels(table, title="t").axes] == [
        "KL to the full cache",
        "same most likely token",
    ]
