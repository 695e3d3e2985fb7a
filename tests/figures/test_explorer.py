"""The explorer: what it offers, two replies on equal noise, what it says of them, and menus that hold together."""

from __future__ import annotations

import re
from dataclasses import replace

import matplotlib

matplotlib.use("agg")
import pandas as pd
import pytest
from IPython.display import DisplayHandle

from kvrepro.errors import KvreproError, UnknownNameError
from kvrepro.figures import explorer_controls
from kvrepro.figures.explorer import (
    Choice,
    Explorer,
    Side,
    comparison_html,
    comparison_table,
    conclusion,
    draw_curve,
    parted_at,
)
from kvrepro.figures.explorer_controls import Controls
from kvrepro.figures.token_picture import TokenPicture
from kvrepro.methods.table import METHODS
from kvrepro.runs.config import CellConfig
from kvrepro.runs.folder import CellFolder
from kvrepro.runs.profiles import Profile, load_profile
from kvrepro.runs.runner import run_cell

COMMON = dict(model="tiny-r1-llama", benchmark="chain-12", n_problems=2, max_new_tokens=90, window=32, ratio=0.75)
CELLS = tuple(CellConfig(**COMMON, method="dynts", budget=budget) for budget in (140, 150))
PROFILE = Profile("p", "P", CELLS)
CHOICE = Choice("tiny-r1-llama", "chain-12", "dynts", "random", 140, "chain-12-001")


@pytest.fixture(scope="module")
def explorer():
    return Explorer(PROFILE)


@pytest.fixture(scope="module")
def sides(explorer):
    return explorer.sides(CHOICE)


def test_what_can_run_is_offered():
    explorer = Explorer(load_profile("tiny"))
    assert explorer.models == ["tiny-r1-qwen", "tiny-r1-llama"]
    assert explorer.budgets("tiny-r1-llama", "sum-16") == [184, 216, 248, 280, 312, 344]
    assert len(explorer.problems("tiny-r1-llama", "chain-12")) == 100
    methods = explorer.methods("tiny-r1-llama")
    assert set(METHODS) - set(methods) == {"oracle_answer", "oracle_future"}


def test_methods_that_lack_what_they_read_are_not_offered(tmp_path):
    # a checkpoint without head, statistics and judge
    (tmp_path / "config.json").write_text("{}")
    explorer = Explorer(PROFILE)
    lacking = {"dynts", "bottom", "triattention", "foresight_kv"}
    assert lacking & set(explorer.methods(str(tmp_path))) == set()
    assert {"random", "sepllm", "full"} <= set(explorer.methods(str(tmp_path)))


def test_a_profile_of_absent_models_says_so():
    with pytest.raises(KvreproError, match="profile paper has no cell with a budget whose model and rows are here"):
        Explorer(load_profile("paper"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "r1-llama"}, "unknown model here 'r1-llama'; known: tiny-r1-llama"),
        ({"benchmark": "sum-16"}, "unknown benchmark of tiny-r1-llama here"),
        ({"right": "oracle_answer"}, "unknown method that tiny-r1-llama can run 'oracle_answer'"),
        ({"problem": "chain-12-002"}, "unknown problem 'chain-12-002'"),
    ],
)
def test_what_is_not_offered_is_named(explorer, changes, message):
    with pytest.raises(UnknownNameError, match=message):
        explorer.check(replace(CHOICE, **changes))


def test_settings_are_those_of_the_profile(explorer):
    assert explorer.config(CHOICE, "dynts") is CELLS[0]
    random = explorer.config(CHOICE, "random")
    assert random == replace(CELLS[0], method="random")
    assert explorer.config(replace(CHOICE, budget=145), "dynts") == replace(CELLS[0], budget=145)
    full = explorer.config(CHOICE, "full")
    assert (full.budget, full.seed, full.max_new_tokens) == (None, 42, 90)


def test_both_replies_have_the_same_noise(sides):
    left, right = sides
    first = max(left.picture.kept[0]) + 1
    assert max(right.picture.kept[0]) + 1 == first
    assert left.picture.tokens[:first] == right.picture.tokens[:first]
    assert left.picture.lost_at != right.picture.lost_at
    assert left.record["problem_id"] == right.record["problem_id"] == "chain-12-001"


def test_a_finished_cell_is_compared_with_its_records(explorer):
    assert "No finished cell" in explorer.sides(CHOICE)[0].picture.caption
    folder = CellFolder.of("p", CELLS[0])
    run_cell(CELLS[0], folder.path)
    (folder.path / "run.ipynb").write_text("{}")
    fresh = Explorer(PROFILE)
    left, right = fresh.sides(CHOICE)
    assert left.picture.caption.endswith("The reply in records.jsonl.")
    assert "No finished cell" in right.picture.caption
    curve = fresh.curve(CHOICE)
    assert curve.attrs["source"] == "these results"
    assert list(curve.budget_tokens) == [140]


def test_a_budget_that_the_prompt_exceeds_is_refused(explorer):
    with pytest.raises(KvreproError, match="the prompt has .* tokens, more than budget=40"):
        explorer.sides(replace(CHOICE, budget=40))


def test_the_table_and_the_block_show_both_sides(sides):
    table = comparison_table(*sides)
    assert list(table.index) == ["dynts 140", "random 140"]
    for row, side in zip(table.itertuples(index=False), sides, strict=True):
        assert row.gold == side.record["gold"]
        assert row.verdict == ("right" if side.record["correct"] else "wrong")
    assert len(comparison_table(sides[0], sides[0])) == 2
    html = comparison_html(*sides)
    assert html.count("kvrepro.draw(") == 1
    assert not re.search(r"https?://", html)


def test_answers_cannot_become_markup(sides):
    hostile = "<img src=x onerror=alert(1)>"
    left = replace(sides[0], record={**sides[0].record, "answer": hostile})
    assert hostile not in comparison_html(left, sides[1])
    told = explorer_controls._Told(hostile)
    assert told._repr_html_() == "<p>&lt;img src=x onerror=alert(1)&gt;</p>"


def side(method, tokens, kept, budget, **record):
    """A side of these tokens, in a cell of this method and budget."""
    config = replace(CELLS[0], method=method, budget=budget) if budget else CellConfig("tiny-r1-llama", "chain-12")
    picture = TokenPicture(tokens, ["thought"] * len(tokens), [None] * len(tokens), kept)
    common = {"gold": "7", "answer": "7", "correct": True, "peak_tokens": 4}
    return Side(
        config, picture, {"n_thinking_tokens": 3, "n_answer_tokens": 1, **common, **record}, f"line of {method}"
    )


def test_where_two_replies_part():
    left = side("dynts", list("abcd"), [], 140)
    for tokens, expected in (("abcd", None), ("abXd", 2), ("abc", 3), ("abcde", 4)):
        assert parted_at(left, side("random", list(tokens), [], 140)) == expected


def test_the_conclusion_says_what_came_out_and_how_little_that_is():
    left = side("dynts", list("abcde"), [[0, 2, 3]], 140)
    right = side("random", list("abcdX"), [[0, 1, 3]], 140, answer=None, correct=False)
    row = {"label": "dynts", "budget_tokens": 140, "pass_at_1": 50.0, "pass_at_1_lo": 40.0, "pass_at_1_hi": 60.0}
    curve = pd.DataFrame([row])
    curve.attrs["source"] = "these results"
    assert conclusion(CHOICE, left, right, curve).splitlines() == [
        "chain-12-001 on Tiny-R1-Llama, gold 7: dynts answered 7, which is right, in 4 tokens and at most 4 slots; "
        "random answered nothing, which is wrong, in 4 tokens and at most 4 slots.",
        "Question included, as the slider counts, the first 4 tokens are equal; after 'abcd' dynts has 'e' and random "
        "has 'X'; the first eviction was at token 4.",
        "dynts: line of dynts.",
        "random: line of random.",
        "One reply says nothing about a method; over the benchmark, in these results, dynts scores 50.0 % [40.0, 60.0] "
        "at this budget.",
    ]
    short = side("random", list("abcd"), [[0, 1, 3]], 140)
    assert "after 'abcd' dynts has 'e' and random ends; the first" in conclusion(CHOICE, left, short, curve)
    full = side("full", list("abcde"), [], None)
    lines = conclusion(CHOICE, full, full, curve).splitlines()
    assert lines[1:] == [
        "Question included, as the slider counts, all tokens of the two replies are equal: nothing was evicted.",
        "line of full.",
        "One reply says nothing about a method.",
    ]


def test_the_curve_marks_the_choice_and_comes_from_the_committed_table():
    explorer = Explorer(load_profile("tiny"))
    choice = replace(CHOICE, budget=232)
    curve = explorer.curve(choice)
    assert curve.attrs["source"] == "the committed tiny-summary.csv"
    assert list(curve.label) == ["dynts"] * 6 + ["full"]
    [ax] = draw_curve(choice, curve).axes
    assert "chosen: 232" in [text.get_text() for text in ax.get_legend().get_texts()]
    score = float(curve[curve.budget_tokens == 232].pass_at_1.iloc[0])
    rings = [line.get_xydata().tolist() for line in ax.lines if line.get_markersize() == 13]
    assert rings == [[[232.0, score]]]


@pytest.fixture
def updated(monkeypatch):
    """Contents by place, as a notebook would show them last."""
    seen = {}
    for name in ("display", "update"):
        monkeypatch.setattr(DisplayHandle, name, lambda self, shown, **_: seen.update({self: shown}))
    return seen


def test_the_places_follow_the_menus(explorer, updated):
    controls = Controls(explorer, CHOICE)
    controls.show("replies", "curve", "conclusion")
    assert len(updated) == 3
    before = dict(updated)
    controls.menus["right"].value = "window"
    assert controls.choice == replace(CHOICE, right="window")
    assert all(updated[place] is not before[place] for place in updated)
    told = updated[controls._places["conclusion"]]
    assert "window answered" in repr(told)
    assert controls.state.value == ""


def test_what_cannot_run_is_one_line(explorer, updated):
    controls = Controls(explorer, replace(CHOICE, budget=40))
    controls.show("replies", "conclusion")
    texts = {repr(shown) for shown in updated.values()}
    assert len(texts) == 1
    assert re.fullmatch(r"Cannot run: problem chain-12-000: the prompt has \d+ tokens, more than budget=40; .*", *texts)
    controls.menus["budget"].value = 140
    assert "dynts answered" in repr(updated[controls._places["conclusion"]])


def test_another_model_brings_its_own_choices(updated):
    explorer = Explorer(load_profile("tiny"))
    controls = Controls(explorer, replace(CHOICE, budget=200, problem="chain-12-003"))
    assert controls.menus["budget"].options == (160, 184, 200, 208, 232, 256, 280)
    controls.menus["benchmark"].value = "sum-16"
    assert controls.choice == Choice("tiny-r1-llama", "sum-16", "dynts", "random", 184, "sum-16-000")
    assert controls.menus["budget"].options == (184, 216, 248, 280, 312, 344)
    assert updated == {}, "nothing is shown yet"


def test_without_a_kernel_the_menus_leave_a_line(explorer, monkeypatch):
    shown = []
    monkeypatch.setattr(explorer_controls, "display", lambda bundle, raw: shown.append(bundle))
    Controls(explorer, CHOICE).show_menus()
    assert "application/vnd.jupyter.widget-view+json" in shown[0]
    assert shown[0]["text/html"] == f"<p>{shown[0]['text/plain']}</p>"
