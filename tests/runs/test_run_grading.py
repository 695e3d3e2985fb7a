"""Replies of a run become graded records: an option's text, where the answer begins, replies without an answer."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from kvrepro.benchmarks.problem import Problem
from kvrepro.benchmarks.table import load_problems
from kvrepro.runs.gathering import graded as graded_rows
from kvrepro.runs.grading import stored_replies


def test_the_text_of_an_option_counts_as_its_letter():
    options = {"A": "12 m", "B": "14 m", "C": "16 m", "D": "18 m"}
    problem = Problem("p", "How high?\nA) 12 m\nB) 14 m\nC) 16 m\nD) 18 m", "C", options)
    row = {"problem_id": "p", "sample_id": 0, "status": "ok", "text": "x</think>It is \\boxed{16\\text{ m}} high."}
    [graded] = graded_rows([problem], [row], SimpleNamespace(benchmark="gpqa_d"))
    assert (graded["correct"], graded["answer"]) == (True, "C")
    # a gated set, whose questions must not spread
    assert "question" not in graded and "12 m" not in json.dumps(graded)
    [open_to_all] = graded_rows([problem], [row], SimpleNamespace(benchmark="aime24"))
    assert open_to_all["question"] == problem.question


@pytest.mark.parametrize(("status", "is_right"), [("ok", True), ("truncated", False), ("nan_logits", False)])
def test_a_reply_that_has_no_answer_is_never_correct(status, is_right):
    """Whatever its text holds: a thought that mentions the closing tag and a box is still a thought."""
    row = {"problem_id": "p", "sample_id": 0, "status": status, "text": "x</think>It is \\boxed{7}.", "answer_start": 9}
    [graded] = graded_rows([Problem("p", "?", "7")], [row], SimpleNamespace(benchmark="chain-12"))
    assert (graded["correct"], graded["answer"], graded["status"]) == (is_right, "7" if is_right else None, status)


def test_the_answer_is_graded_from_where_the_token_ids_say():
    text = "x</think>It is \\boxed{7}, after </think> as they say."
    rows = [
        {"problem_id": "p", "sample_id": i, "status": "ok", "text": text, "answer_start": start}
        for i, start in enumerate((9, text.index("after")))
    ]
    first, second = graded_rows([Problem("p", "?", "7")], rows, SimpleNamespace(benchmark="chain-12"))
    assert (first["answer"], first["correct"], first["answer_start"]) == ("7", True, 9)
    assert (second["answer"], second["correct"]) == (None, False)


@pytest.mark.parametrize(
    ("manifest", "kind"),
    [
        ({"config": "x", "benchmark": "chain-12"}, "integer"),
        ({"config": {"benchmark": None}, "benchmark": "chain-12"}, "integer"),
        ({"config": {"benchmark": "chain-12"}, "benchmark": "aime24"}, "integer"),
        ({"benchmark": ["chain-12"]}, None),
        ({"benchmark": 5}, None),
        ({"n_records": 7}, None),
    ],
)
def test_a_manifest_by_hand_names_the_benchmark_or_is_none_of_the_graders_business(tmp_path, manifest, kind):
    """What grading needs of a record is enough there: not what a run writes beside it."""
    problem = load_problems("chain-12", 1)[0]
    row = {"problem_id": problem.problem_id, "sample_id": 0, "status": "ok", "text": "", "gold": problem.gold}
    (tmp_path / "records.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    found = stored_replies(tmp_path / "records.jsonl")
    assert (found.kind, len(found.rows)) == (kind, 1)
