"""Metrics against their long-hand definitions and hand-counted cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from kvrepro.errors import KvreproError
from kvrepro.scores import metrics


def record(problem, sample, correct, answer="x", status="ok", thinking=10, after=2):
    return {
        "problem_id": problem,
        "sample_id": sample,
        "status": status,
        "text": "",
        "answer": answer,
        "gold": "1",
        "correct": correct,
        "n_prompt_tokens": 5,
        "n_thinking_tokens": thinking,
        "n_answer_tokens": after,
    }


def cell(verdicts):
    return [record(f"p{i}", j, bool(v)) for i, row in enumerate(verdicts) for j, v in enumerate(row)]


VERDICTS = [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 0, 0]]


def rows_by_metric(rows, equivalent=str.__eq__):
    return {row["metric"]: row["score"] for row in metrics.metric_rows(rows, equivalent)}


def test_pass_at_1_is_the_mean_of_problem_means():
    expected = (2 / 5 + 1 + 0 + 3 / 5) / 4
    assert metrics.summarise(cell(VERDICTS)).pass_at_1 == pytest.approx(expected)
    assert rows_by_metric(cell(VERDICTS))["pass@1"] == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_pass_at_k_is_the_mean_over_all_subsets(k):
    expected = [np.mean([any(s) for s in itertools.combinations(row, k)]) for row in VERDICTS]
    assert metrics.pass_at_values(5, [sum(row) for row in VERDICTS], k) == pytest.approx(np.array(expected))
    if k in (2, 4, 5):
        assert rows_by_metric(cell(VERDICTS))[f"pass@{k}"] == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("k", [0, 6])
def test_pass_at_k_needs_k_samples(k):
    with pytest.raises(KvreproError, match=f"pass@{k}"):
        metrics.pass_at_values(5, [1, 2], k)


def answers(*pairs):
    return [record("p", j, correct, answer) for j, (answer, correct) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([("1", True), ("1", True), ("2", False), ("3", False), ("4", False)], 1.0),
        ([("1", True), ("2", False), ("2", False), ("2", False), ("3", False)], 0.0),
        ([("1", True), ("2", False)], 0.5),
        ([("1", True), ("2", False), ("3", False)], 1 / 3),
        ([(None, False), (None, False), ("1", True)], 1.0),
        ([(None, False), (None, False)], 0.0),
        ([("1", True), (" 1 ", True), ("2", False)], 1.0),
    ],
)
def test_majority_by_hand(pairs, expected):
    value = metrics.maj_value(answers(*pairs), lambda a, b: a.strip() == b.strip())
    assert value == pytest.approx(expected)


def test_dynts_major_votes_on_verdicts_and_is_a_lower_bound():
    rows = answers(("1", True), ("1", True), ("2", False), ("3", False), ("4", False))
    found = rows_by_metric(rows)
    assert (found["dynts_major"], found["maj@5"]) == (0.0, 1.0)
    assert rows_by_metric(cell(VERDICTS))["dynts_major"] == pytest.approx(2 / 4)


def test_majority_compares_with_the_first_of_each_class_by_the_given_equivalence():
    rows = answers(("1/2", True), ("0.5", True), ("2", False), ("2", False))
    values = {"1/2": 0.5, "0.5": 0.5, "2": 2.0}
    assert metrics.maj_value(rows, str.__eq__) == 0.0
    assert metrics.maj_value(rows, lambda a, b: values[a] == values[b]) == 0.5


def test_summary_by_hand():
    rows = cell([[1, 0], [1, 1]])
    rows[1] = record("p0", 1, False, None, "truncated", thinking=50, after=0)
    rows[3] = record("p1", 1, True, "1", "length_limit", thinking=10, after=30)
    score = metrics.summarise(rows)
    assert (score.n_problems, score.n_samples, score.pass_at_1) == (2, 2, 0.75)
    assert score.answered_share == 0.75
    assert score.truncated_share == 0.5
    assert score.mean_new_tokens == pytest.approx((12 + 50 + 12 + 40) / 4)
    assert score.mean_thinking_tokens == pytest.approx((10 + 50 + 10 + 10) / 4)
    assert 0 <= score.pass_at_1_lo < 0.75 < score.pass_at_1_hi <= 1


@pytest.mark.parametrize("verdict", [True, False])
def test_equal_problems_still_have_an_interval(verdict):
    score = metrics.summarise(cell([[verdict] * 3] * 30))
    # the exact bound for 0 of 30
    width = 1 - 0.025 ** (1 / 30)
    assert score.pass_at_1_hi - score.pass_at_1_lo == pytest.approx(width)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no records"),
        ([record("p", 0, None)], "not graded"),
        ([record("p", 0, float("nan"))], "not graded"),
        ([record("p", 0, True), record("p", 0, True)], "twice"),
        ([record("p", 0, True), record("p", 1, True), record("q", 0, True)], "unequal"),
        ([{"problem_id": "p"}], "lacks"),
        ([{**record("p", 0, True), "n_answer_tokens": None}], "lack a count"),
    ],
)
def test_what_cannot_be_scored_is_an_error_and_never_zero(rows, message):
    with pytest.raises(KvreproError, match=message):
        metrics.summarise(rows)


NAN = float("nan")


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (metrics.pass_at_values, (5, [6], 1), "right samples"),
        (metrics.pass_at_values, (5, [-1], 1), "right samples"),
        (metrics.pass_at_values, (5, [1.5], 1), "whole numbers"),
        (metrics.pass_at_values, (5, [NAN], 1), "not finite"),
        (metrics.pass_at_values, (5, [], 1), "at least 1"),
        (metrics.pass_at_values, (5, [1], True), "pass@True"),
        (metrics.pass_at_values, (5, [1], 2.5), "pass@2.5"),
        (metrics.summarise, (["a", "b"],), "one mapping per reply"),
        (metrics.summarise, ([1],), "one mapping per"),
        (metrics.summarise, ([record("p", 0, True, answer=5)],), "expected text or None"),
        (metrics.mean_tokens, ([], "n_thinking_tokens"), "at least 1"),
        (metrics.mean_tokens, ([{"n_thinking_tokens": NAN}], "n_thinking_tokens"), "lack a count"),
    ],
)
def test_input_that_is_no_data_is_named(function, arguments, message):
    with pytest.raises(KvreproError, match=message):
        function(*arguments)


def test_an_answer_that_a_data_frame_made_nan_is_none():
    rows = [record("p", 0, False, answer=NAN), record("p", 1, False, answer=NAN), record("p", 2, True, answer="1")]
    assert metrics.summarise(rows).answered_share == pytest.approx(1 / 3)
    assert metrics.maj_value(rows, str.__eq__) == 1.0
