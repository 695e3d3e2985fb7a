"""What a table of methods came to, in sentences, from hand-made cells."""

from __future__ import annotations

import dataclasses

from kvrepro.analysis.method_findings import (
    ABLATIONS,
    average_findings,
    best_sentence,
    method_findings,
    setting_findings,
    setting_table,
)
from kvrepro.analysis.method_table import average_table, method_table, pinning_table
from kvrepro.scores.sentences import p_text

from .test_method_table import make_cell

PANEL = "Tiny-R1-Llama, chain-12, 160 slots"


def few(cell, n=4):
    """A cell with its first problems alone."""
    return dataclasses.replace(
        cell, by_problem=dict(list(cell.by_problem.items())[:n]), row={**cell.row, "n_problems": n}
    )


def test_the_best_is_named_and_who_is_as_good_and_how_dynts_stands():
    cells = [make_cell("full", 20), make_cell("dynts", 10), make_cell("rkv", 16), make_cell("snapkv", 15)]
    (found,) = method_findings([*cells, make_cell("random", 2)]).items()
    assert found[0] == PANEL
    best, to_best, to_full, to_random = found[1]
    assert best == "Of 4 methods the highest is rkv with 80.0 % [0.0, 100.0]; not significantly below it: snapkv 75.0."
    # of 20 problems 6 differ, all in one direction
    assert to_best.startswith("dynts loses to rkv: -30.0 points [-52.0, -8.0], p = ")
    assert to_full.startswith("dynts loses to full: -50.0 points")
    assert to_random.startswith("dynts beats random: +40.0 points")


def test_p_values_are_those_of_the_table():
    cells = [make_cell("full", 20), make_cell("dynts", 10), make_cell("rkv", 16), make_cell("random", 7, shift=2)]
    table = method_table(cells).set_index("label")
    sentences = method_findings(cells)[PANEL]
    for label, p_value in (
        ("rkv", table.minus_dynts_p["rkv"]),
        ("full", table.minus_full_p["dynts"]),
        ("random", table.minus_dynts_p["random"]),
    ):
        (own,) = [text for text in sentences[1:] if label in text]
        assert f"p {p_text(p_value)}" in own


def test_a_difference_that_is_not_significant_is_none():
    cells = [make_cell("full", 20), make_cell("dynts", 10), make_cell("random", 9)]
    assert method_findings(cells)[PANEL][-1].startswith("dynts and random cannot be told apart: +5.0 points")


def test_few_problems_say_nothing():
    cells = [few(make_cell(name, n)) for name, n in (("full", 20), ("dynts", 3), ("random", 1))]
    best, *rest = method_findings(cells)[PANEL]
    assert best == "4 problems say nothing about the order of 2 methods."
    assert rest and all("4 problems say nothing" in text for text in rest)


def test_budgets_are_told_apart_each_with_its_own_reference():
    def at(cell, budget):
        config = dataclasses.replace(cell.config, budget=budget)
        return dataclasses.replace(cell, config=config, row={**cell.row, "budget_tokens": budget})

    small = [make_cell("dynts", 4), make_cell("random", 4)]
    large = [at(make_cell("dynts", 18), 200), at(make_cell("random", 4), 200)]
    found = method_findings([make_cell("full", 20), *small, *large])
    assert list(found) == [PANEL, PANEL.replace("160", "200")]
    assert "cannot be told apart: +0.0 points" in found[PANEL][-1]
    assert found[PANEL.replace("160", "200")][-1].startswith("dynts beats random: +70.0 points")


def test_without_dynts_only_the_best_is_told_and_alone_it_is_no_best():
    assert method_findings([make_cell("full", 20), make_cell("rkv", 16), make_cell("h2o", 2)])[PANEL] == [
        "Of 2 methods the highest is rkv with 80.0 % [0.0, 100.0]; all others are significantly below it."
    ]
    assert method_findings([make_cell("rkv", 16)])[PANEL] == ["rkv has 80.0 % [0.0, 100.0]."]


def test_of_many_that_are_as_good_some_are_named():
    names = ("dynts", "rkv", "snapkv", "h2o", "tova", "keydiff", "knorm")
    text = best_sentence(method_table([make_cell(name, 16) for name in names]))
    assert text.endswith("not significantly below it: rkv 80.0, snapkv 80.0, h2o 80.0, tova 80.0 and 2 more.")


def test_ablations_are_compared_with_the_whole():
    cells = [make_cell("full", 20), make_cell("dynts", 14), make_cell("dynts_noque", 1), make_cell("random", 3)]
    found = method_findings(cells, ABLATIONS)[PANEL]
    assert [text.split(": ")[0] for text in found[1:]] == ["dynts loses to full", "dynts beats dynts_noque"]


def settings(*rows):
    """dynts at (window, ratio, right answers)."""
    found = []
    for window, ratio, right in rows:
        cell = make_cell("dynts", right, protocol="as_published")
        config = dataclasses.replace(cell.config, window=window, ratio=ratio)
        found.append(dataclasses.replace(cell, config=config, row={**cell.row, "window": window, "ratio": ratio}))
    return found


def test_the_best_window_and_ratio_are_named():
    cells = [make_cell("full", 20), *settings((8, 0.5, 2), (32, 0.75, 15), (64, 0.75, 16))]
    assert setting_findings(cells) == {
        PANEL: [
            "Of 3 settings of dynts the highest is (window 64, ratio 0.75) with 80.0 % [0.0, 100.0]; "
            "not significantly below it: (window 32, ratio 0.75) 75.0."
        ]
    }
    table = setting_table(cells)
    assert table[["window", "ratio", "pass_at_1"]].values.tolist() == [[8, 0.5, 10], [32, 0.75, 75], [64, 0.75, 80]]


def test_one_setting_is_no_comparison():
    assert setting_findings(settings((32, 0.75, 15))) == {}
    assert setting_table([make_cell("full", 20), make_cell("h2o", 4)]).empty


def test_means_over_sets_name_the_three_highest_and_the_place_of_dynts():
    rights = {"full": 20, "rkv": 18, "snapkv": 16, "h2o": 14, "dynts": 12}
    models = ("tiny-r1-llama", "tiny-r1-qwen")
    averages = average_table([make_cell(name, n, model) for model in models for name, n in rights.items()])
    (text,) = average_findings(averages, pinning_table(method_table([make_cell("h2o", 4)])))
    assert text.startswith("Mean of 2 models and benchmarks: the highest of 4 are rkv 90.0 % [")
    assert "; dynts is number 4 with 60.0 % [" in text


def test_what_pinning_changes_is_counted_and_the_most_is_named():
    pin = {"pin_question": True}
    cells = [make_cell("full", 20), make_cell("dynts", 9)]
    for name, alone, pinned in (("h2o", 4, 9), ("rkv", 8, 8), ("gkv", 9, 6)):
        cells += [make_cell(name, alone), make_cell(name, pinned, options=pin)]
    averages = average_table(cells)
    assert average_findings(averages, pinning_table(method_table(cells))) == [
        "Pinning the question raises the mean of 1 of 3 scores, most h2o by 25.0 points; it lowers gkv by 15.0."
    ]


def test_one_set_has_no_mean_over_sets():
    averages = average_table([make_cell("full", 20), make_cell("dynts", 9)])
    assert averages.n_sets.max() == 1
    assert average_findings(averages, pinning_table(method_table([make_cell("h2o", 4)]))) == []
