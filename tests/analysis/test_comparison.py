"""What a comparison comes to, from hand-made cells: who is compared with whom, adjusted how, and said how."""

from __future__ import annotations

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from kvrepro.analysis import comparison
from kvrepro.analysis.comparison import Comparison
from kvrepro.errors import KvreproError
from kvrepro.figures.comparison import comparison_points
from kvrepro.runs.profiles import Profile
from kvrepro.scores.power import PowerModel

from .test_method_table import PROBLEMS, make_cell


def at_budget(cell, budget):
    config = dataclasses.replace(cell.config, budget=budget)
    return dataclasses.replace(cell, config=config, row={**cell.row, "budget_tokens": budget})


@pytest.fixture
def compare(monkeypatch):
    """`Comparison.of` a profile whose finished cells are given; the profile may hold more."""

    def of(cells, profile_cells=None):
        done = [dataclasses.replace(cell, row={**cell.row, "run_tps": 1234.4}) for cell in cells]
        monkeypatch.setattr(comparison, "scored_cells", lambda profile: done)
        return Comparison.of(Profile("p", "P", tuple(profile_cells or [cell.config for cell in cells])))

    return of


@pytest.fixture
def cells():
    full, first = make_cell("full", 20), make_cell("dynts", 12)
    return [full, first, make_cell("h2o", 3), make_cell("window", 11, shift=4)]


def p_of(one, other):
    return stats.ttest_1samp([one.by_problem[p] - other.by_problem[p] for p in PROBLEMS], 0).pvalue


def test_the_first_is_compared_with_every_other_and_all_with_the_full_cache(compare, cells):
    [found] = compare(cells)
    assert found.first == "dynts"
    assert [(d.name, d.other) for d in found.to_others] == [("dynts", "h2o"), ("dynts", "window")]
    assert [(d.name, d.other) for d in found.to_full] == [("dynts", "full"), ("h2o", "full"), ("window", "full")]
    assert [d.found.difference for d in found.to_others] == pytest.approx([0.45, 0.05])
    # Holm by hand, over the differences to the others alone
    raw = [p_of(cells[1], cells[2]), p_of(cells[1], cells[3])]
    assert raw[0] < raw[1]
    assert [d.p_value for d in found.to_others] == pytest.approx([2 * raw[0], raw[1]])


def test_the_table_holds_the_differences_of_its_rows(compare, cells):
    [found] = compare(cells)
    table = found.table.set_index("label")
    assert np.isnan(table.loc[["full", "dynts"], "first_minus"]).all()
    assert table.loc["h2o", "first_minus"] == pytest.approx(45)
    assert table.loc["h2o", "minus_full"] == pytest.approx(-85)
    assert table.loc["window", "first_minus_p"] == found.to_others[1].p_value
    shown = found.shown.set_index("method")
    assert shown.loc["h2o", "dynts minus it"].startswith("+45.0 [")
    assert (shown.loc["full", "budget"], shown.loc["full", "minus full"]) == ("-", "-")
    assert shown.loc["h2o", "tokens/s"] == "1,234"


def test_sentences_say_who_leads_and_what_it_would_take_where_nobody_does(compare, cells):
    [found] = compare(cells)
    lines = found.sentences
    assert len(lines) == 6
    assert lines[0].startswith("dynts beats h2o: +45.0 points")
    assert lines[1].startswith("dynts and window cannot be told apart")
    assert lines[2].startswith("If 5.0 points is the true difference of dynts and window, some ")
    assert "1 sample each" in lines[2]
    assert lines[3].startswith("dynts loses to full: -40.0 points")


def test_the_problems_that_it_would_take_find_such_a_difference_with_80_percent(compare, cells):
    [found] = compare(cells)
    told, open_one = found.to_others
    assert told.power_sentence == ""
    differences = [cells[1].by_problem[p] - cells[3].by_problem[p] for p in PROBLEMS]
    model = PowerModel(float(np.var(differences, ddof=1)), 0.0)
    n = open_one.problems_needed
    # of two comparisons, at half the level
    assert model.power(0.05, n, 1, 0.025) >= 0.8 > model.power(0.05, n - 1, 1, 0.025)
    assert f"some {n:,} problems" in open_one.power_sentence
    assert "show it among 2 comparisons with 80 % chance" in open_one.power_sentence
    assert "chain-12 has 100, so more samples or another benchmark" in open_one.power_sentence


def test_what_could_not_be_told_takes_more_problems_than_there_were(compare):
    """Alone each of the 12 differences is significant; interval and p-value seem to disagree, which is explained."""
    methods = [make_cell("dynts", 12), *(make_cell(name, 5) for name in ("h2o", "window", "random"))]
    [found] = compare([make_cell("full", 20), *(at_budget(cell, b) for cell in methods for b in (160, 176, 192, 208))])
    assert len(found.to_others) == 12
    for one in found.to_others:
        assert one.found.lo > 0 and one.found.p_value < 0.05 < one.p_value
        assert one.problems_needed > one.found.n_problems
        assert one.sentence.endswith("The interval is of this difference alone; p is adjusted over all 12.")
    assert not [one.sentence for one in found.to_full if "alone" in one.sentence], "all of them are told"


def test_equal_methods_promise_no_number_of_problems(compare):
    [found] = compare([make_cell("full", 20), make_cell("dynts", 5), make_cell("window", 5)])
    assert found.to_others[0].problems_needed is None
    assert found.sentences[1] == "How many problems would tell dynts and window apart, these 20 do not say."


def test_a_method_that_evicted_nothing_is_said_so_and_promised_nothing(compare, cells):
    cells[3].row["evictions"] = 0
    lines = compare(cells)[0].sentences
    assert lines[-1] == "Nothing was evicted from window at budget 160: no reply grew that long; lower the budget."
    assert not [line for line in lines if "true difference" in line]


def test_the_sizes_that_were_not_given_are_said(compare, cells):
    plain = [dataclasses.replace(c, config=dataclasses.replace(c.config, window=None)) for c in cells[1:]]
    assert compare([cells[0], *plain])[0].sizes == "budget 160: window 64, evict_every 20"
    assert compare(cells)[0].sizes == "budget 160: window 32, evict_every 20"
    assert compare([cells[0], cells[1], plain[1]])[0].sizes == (
        "budget 160: window 32, evict_every 20 (dynts) or window 64, evict_every 20 (h2o)"
    )
    assert compare([cells[0]])[0].sizes == ""


def test_budgets_are_compared_one_by_one_and_adjusted_together(compare, cells):
    both = [cells[0], *(at_budget(cell, b) for cell in cells[1:] for b in (160, 200))]
    [found] = compare(both)
    assert [(d.other, d.budget) for d in found.to_others] == [(m, b) for m in ("h2o", "window") for b in (160, 200)]
    raw = p_of(cells[1], cells[2])
    assert found.to_others[0].p_value == pytest.approx(4 * raw)
    assert found.sentences[0].startswith("Budget 160: dynts beats h2o")
    assert found.sentences[6].startswith("Budget 200: dynts beats h2o")


def test_models_and_benchmarks_are_comparisons_of_their_own(compare, cells):
    found = compare([*cells, make_cell("full", 20, benchmark="sum-16"), make_cell("window", 9, benchmark="sum-16")])
    assert [(f.benchmark, f.first, len(f.to_others)) for f in found] == [
        ("chain-12", "dynts", 2),
        ("sum-16", "window", 0),
    ]


def test_without_the_first_methods_cell_the_others_still_stand_beside_the_full_cache(compare, cells):
    [found] = compare([cells[0], *cells[2:]], [cell.config for cell in cells])
    assert (found.first, found.to_others) == ("dynts", ())
    assert len(found.sentences) == len(found.to_full) == 2


def test_nothing_finished_and_two_protocols_are_refused(compare, cells):
    with pytest.raises(KvreproError, match="p has no finished cell to compare: run `kvrepro grid p`"):
        compare([], [cell.config for cell in cells])
    with pytest.raises(KvreproError, match="mixes the protocols"):
        compare([*cells, make_cell("random", 3, protocol="as_published")])


def test_the_figure_draws_every_score_and_every_difference(compare, cells):
    [found] = compare(cells)
    scores, differences = comparison_points(found.table, found.first, title="T").axes
    assert [t.get_text() for t in scores.get_yticklabels()] == ["full", "dynts", "window", "h2o"]
    assert [t.get_text() for t in scores.texts] == ["100.0", "60.0", "55.0", "15.0"]
    assert [t.get_text() for t in differences.texts] == ["+5.0", "+45.0"]
    assert differences.get_xlabel().startswith("dynts minus it")
    plt.close("all")


def test_a_long_name_stays_inside_a_figure_that_a_phone_can_show(compare, cells):
    table = compare(cells)[0].table
    long = "key_mix + age=2.0 + pin_question=True + pool_kernel=7"
    figure = comparison_points(table.replace({"label": {"dynts": long}}), long, title="T")
    figure.draw_without_rendering()
    label = figure.axes[1].xaxis.label.get_window_extent()
    assert figure.bbox.x0 <= label.x0 < label.x1 <= figure.bbox.x1
    assert figure.get_size_inches()[0] <= 6.4
    plt.close("all")


def test_the_figure_of_one_method_says_that_there_is_nothing_beside_it(compare, cells):
    [found] = compare([at_budget(cells[1], b) for b in (160, 200)])
    scores, differences = comparison_points(found.table, found.first, title="T").axes
    assert [t.get_text() for t in scores.get_yticklabels()] == ["dynts, 160", "dynts, 200"]
    assert [t.get_text() for t in differences.texts] == ["nothing to compare with"]
    plt.close("all")
