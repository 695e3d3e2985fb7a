"""The main table from hand-made cells: paired differences, Holm, averages over shared problems, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from kvrepro.analysis.method_table import (
    ScoredCell,
    average_table,
    explain_protocol,
    first_of_each_label,
    method_table,
    pinning_table,
)
from kvrepro.errors import KvreproError
from kvrepro.paths import PACKAGE
from kvrepro.runs.config import CellConfig

PROBLEMS = [f"p{i}" for i in range(20)]


def make_cell(method, n_right, model="tiny-r1-llama", benchmark="chain-12", options=None, protocol="fair", shift=0):
    sizes = {} if method == "full" else {"budget": 160, "window": 32, "protocol": protocol, "options": options}
    config = CellConfig(model=model, benchmark=benchmark, method=method, **sizes)
    scores = {p: float((i + shift) % 20 < n_right) for i, p in enumerate(PROBLEMS)}
    row = {
        "model": model,
        "benchmark": benchmark,
        "method": method,
        "label": config.label,
        "protocol": config.protocol,
        "budget_tokens": config.budget,
        "window": config.window,
        "ratio": None,
        "n_problems": 20,
        "n_samples": 1,
        "pass_at_1": 5.0 * n_right,
        "pass_at_1_lo": 0.0,
        "pass_at_1_hi": 100.0,
        "kv_tokens_peak": 180,
        "evictions": 0 if method == "full" else 40,
        "slack_tokens": 20,
    }
    return ScoredCell(config, row, scores)


def test_differences_are_paired_and_holm_adjusted():
    cells = [make_cell("full", 20), make_cell("dynts", 16), make_cell("h2o", 4), make_cell("window", 4, shift=3)]
    table = method_table(cells).set_index("label")
    assert table.loc["h2o", "minus_full"] == pytest.approx(-80)
    assert table.loc["h2o", "minus_dynts"] == pytest.approx(-60)
    assert np.isnan(table.loc["dynts", "minus_dynts"])
    raw = {}
    for label, cell in (("full", cells[0]), ("h2o", cells[2]), ("window", cells[3])):
        differences = [cell.by_problem[p] - cells[1].by_problem[p] for p in PROBLEMS]
        raw[label] = stats.ttest_1samp(differences, 0).pvalue
    ranked = sorted(raw, key=raw.get)
    # Holm by hand: the smallest of three times three, and never below the one before it
    adjusted, before = {}, 0.0
    for i, label in enumerate(ranked):
        before = max(before, min(1.0, raw[label] * (3 - i)))
        adjusted[label] = before
    for label, value in adjusted.items():
        assert table.loc[label, "minus_dynts_p"] == pytest.approx(value)


def test_best_and_not_significantly_worse_are_marked_among_the_compressed():
    cells = [make_cell("full", 20), make_cell("dynts", 16), make_cell("rkv", 15), make_cell("h2o", 2)]
    table = method_table(cells).set_index("label")
    assert table.is_best.to_dict() == {"full": False, "dynts": True, "rkv": False, "h2o": False}
    assert table.is_as_good.to_dict() == {"full": False, "dynts": True, "rkv": True, "h2o": False}


def test_a_table_that_mixes_protocols_is_refused():
    cells = [make_cell("full", 20), make_cell("dynts", 16), make_cell("rkv", 15, protocol="as_published")]
    for function in (method_table, average_table):
        with pytest.raises(KvreproError, match="mixes the protocols as_published and fair"):
            function(cells)
        with pytest.raises(KvreproError, match="no finished cell"):
            function([])


@pytest.mark.parametrize(
    ("protocol", "meaning"),
    [("fair", "the same for every method"), ("as_published", "may hold different numbers of slots")],
)
def test_the_protocol_that_is_stated_is_the_one_that_ran(protocol, meaning):
    table = method_table([make_cell("full", 20), make_cell("dynts", 16, protocol=protocol)])
    stated = explain_protocol(table)
    assert stated.startswith(f"protocol {protocol}: ") and meaning in stated


def test_averages_need_every_set_and_draw_a_problem_for_both_models():
    cells = [
        make_cell(method, right, model)
        for model in ("tiny-r1-llama", "tiny-r1-qwen")
        for method, right in (("full", 20), ("dynts", 16))
    ]
    averages = average_table([*cells, make_cell("h2o", 4)]).set_index("label")
    assert list(averages.index) == ["full", "dynts"], "h2o lacks a set"
    assert averages.loc["dynts", "pass_at_1"] == pytest.approx(80)
    assert averages.loc["dynts", "n_sets"] == 2
    assert averages.loc["full", "pass_at_1_lo"] < 90, "100 % of 20 problems is no certainty"
    # both models are right on the same problems, so the mean is as uncertain as one set of 20, not as one of 40
    width = averages.loc["dynts", "pass_at_1_hi"] - averages.loc["dynts", "pass_at_1_lo"]
    assert width == pytest.approx(2 * 1.96 * 100 * (0.8 * 0.2 / 20) ** 0.5, rel=0.15)


def test_pinning_pairs_differ_by_the_question_alone():
    question = {"pin_question": True}
    cells = [
        make_cell("full", 20),
        make_cell("h2o", 4),
        make_cell("h2o", 9, options=question),
        make_cell("snapkv", 3, options={"obs_window": 16}),
        make_cell("snapkv", 8, options={"obs_window": 16, **question}),
        make_cell("rkv", 8, options=question),
    ]
    pairs = pinning_table(method_table(cells)).set_index("score")
    assert pairs.gain.to_dict() == {"h2o": 25.0, "snapkv + obs_window=16": 25.0}


def test_a_pair_stands_once_where_labels_do_not_name_every_size():
    pinned = [make_cell("h2o", n, options={"pin_question": True}) for n in (8, 9)]
    cells = [make_cell("full", 20), make_cell("h2o", 3), make_cell("h2o", 4), *pinned]
    assert pinning_table(method_table(cells)).gain.to_list() == [25.0]


def test_of_cells_that_differ_in_sizes_alone_the_first_stands():
    cells = [make_cell("full", 20), make_cell("dynts", 16), make_cell("dynts", 9), make_cell("h2o", 4)]
    assert first_of_each_label(cells) == [cells[0], cells[1], cells[3]]


def test_labels_name_the_switches():
    assert make_cell("h2o", 4, options={"pin_question": True}).config.label == "h2o + question"
    config = dataclasses.replace(make_cell("h2o", 4).config, options={"granularity": "layer"})
    assert config.label == "h2o + granularity=layer"


def test_the_reference_holds_the_generated_table_of_methods():
    from kvrepro.commands.list import _methods, markdown_table

    page = (Path(PACKAGE).parent / "docs" / "reference.md").read_text()
    generated = page.split("<!-- generated: kvrepro list methods --markdown -->\n")[1].split("\n<!-- end -->")[0]
    assert generated == markdown_table(_methods()), "run `kvrepro list methods --markdown` and put it there"


def test_the_registry_and_the_case_table_name_the_same_methods():
    from kvrepro.methods.table import METHODS, method_class

    from ..method_cases import COMPRESSED, ORACLES

    assert set(METHODS) == {"full", *COMPRESSED, *ORACLES}
    for name in METHODS:
        cls = method_class(name)
        assert cls.name == name
        assert cls.source and cls.state and cls.attention in ("none", "queries", "step")
