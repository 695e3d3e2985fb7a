"""The grading notebook's frame and table."""

from __future__ import annotations

import json

import pandas as pd

from kvrepro.analysis.grader_review import (
    against_published,
    case_replies,
    compare_graders,
    coverage_sentence,
    filterable,
    grader_scores,
    grader_sentences,
    metric_frame,
    run_replies,
)
from kvrepro.graders.grading import equivalence
from kvrepro.paths import project_root


def reply(problem, text, gold="27", status="ok"):
    return {
        "problem_id": problem,
        "sample_id": 0,
        "status": status,
        "text": text,
        "answer": None,
        "gold": gold,
        "correct": False,
        "n_prompt_tokens": 1,
        "n_thinking_tokens": 1,
        "n_answer_tokens": 1,
        "kind": "integer",
    }


REPLIES = [
    reply("a", "</think>\\boxed{27}"),
    reply("b", "</think>\\boxed{<b>2700</b>}"),
    reply("c", "</think>\\boxed{2700}"),
]


def test_disagreements_come_first():
    frame = compare_graders(REPLIES)
    assert list(frame.problem_id) == ["c", "a", "b"]
    assert list(frame.strict) == [False, True, False]
    assert list(frame.compat) == [True, True, False]


def test_the_graders_are_told_apart_in_replies_and_points():
    frame = compare_graders(REPLIES * 4).assign(problem_id=range(12))
    [text] = grader_sentences(frame)
    assert text.startswith(
        "integer: the graders disagree on 4 of 12 replies (right under compat alone: 4; under strict alone: 0). "
        "compat and strict cannot be told apart: +33.3 points ["
    )
    scores = grader_scores(frame).set_index("grader")
    assert scores.pass_at_1.round(1).to_dict() == {"strict": 33.3, "compat": 66.7}
    assert set(scores.n_problems) == {12} and set(scores.n_samples) == {1}


def test_graders_that_agree_move_nothing():
    frame = compare_graders(REPLIES[:2] * 5).assign(problem_id=range(10))
    [text] = grader_sentences(frame)
    assert text.startswith("integer: the graders disagree on 0 of 10 replies. compat and strict cannot be told apart")


def test_coverage_is_told_by_kind_of_interval():
    text = coverage_sentence(pd.DataFrame({"ours": [0.951, 0.962], "naive": [0.71, 0.76]}))
    assert text.endswith("hold the true score: ours 95 to 96 %, naive 71 to 76 %.")


def test_the_table_escapes_what_models_write_and_has_a_filter_per_column():
    frame = compare_graders(REPLIES)
    text = filterable(frame)
    assert "<b>2700</b>" not in text
    assert "&lt;b&gt;2700" in text
    assert text.count("<input") == len(frame.columns)


def test_case_replies_are_of_every_kind():
    replies = case_replies(project_root() / "tests" / "cases", 5)
    assert {r["kind"] for r in replies} == {"integer", "number", "latex", "choice"}
    assert len(replies) == 20


def test_a_run_on_a_published_model_is_compared_and_flagged(tmp_path):
    rows = [reply(f"p{i}", f"</think>\\boxed{{{27 if i % 4 == 0 else 5}}}") for i in range(400)]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"model": "r1-qwen", "benchmark": "math500", "method": "full"}
    (tmp_path / "manifest.json").write_text(json.dumps({"config": config}))
    frame = compare_graders(run_replies(tmp_path, "integer"))
    table = against_published(tmp_path, frame)
    assert table.flagged.all()
    assert set(table.benchmark) == {"math500"}
    assert len(against_published(None, frame)) > len(table)


def test_votes_count_values_and_not_spellings():
    texts = ["\\boxed{\\frac{1}{2}}", "\\boxed{0.5}", "\\boxed{3}", "\\boxed{3}", "I cannot tell."]
    rows = [{**reply("a", f"</think>{text}", "\\frac12"), "sample_id": i} for i, text in enumerate(texts)]
    rows += [{**reply("b", "</think>\\boxed{27}"), "sample_id": i} for i in range(5)]
    rows = [{**row, "kind": "latex"} for row in rows]
    table = metric_frame(compare_graders(rows)).set_index("metric")
    # a: two say one half, two say 3, so half the credit; by spelling 3 would win alone. Two of five are right.
    assert table.loc["maj@5", "score"] == 75
    assert table.loc["pass@1", "score"] == 70
    assert table.loc["pass@2", "score"] == 100 * (1 + (1 - 3 / 10)) / 2
    assert table.loc["pass@5", "score"] == 100
    assert table.loc["dynts_major", "score"] == 50
    assert (table.lo <= table.score).all()
    assert (table.score <= table.hi).all()
    assert set(table.n) == {2}
    assert set(table.k) == {5}
    assert set(table["answered %"]) == {90.0}


def test_equivalence_does_not_depend_on_the_order():
    same = equivalence("latex")
    for first, second, expected in (("x=5", "5", True), ("\\frac12", "0.5", True), ("(1,2)", "(2,1)", False)):
        assert same(first, second) == same(second, first) == expected
    assert equivalence("choice")("\\text{(B)}", "B")
    assert not equivalence("choice")("B", "C")
