"""Metrics against their long-hand definitions and hand-counted cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from kvrepro.errors import KvreproError
from kvrepro.scores import metrics


def record(problem, sample, correct, answer="x", status="ok", thinking=10, after=2):
    return {
        "problem_id": problem, "sample_id": sample, "status": status, "text": "", "answer": answer, "gold": "1",
        "correct": correct, "n_prompt_tokens": 5, "n_thinking_tokens": thinking, "n_answer_tokens": after,
    }  # fmt: skip


def cell(verdicts):
    return [record(f"p{i}", j, bool(v)) for i, row in enumerate(verdicts) for j, v in enumerate(row)]


VERDICTS = [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 0, 0]]


def test_pass_at_1_is_the_mean_of_problem_means():
    assert metrics.pass_at_1(cell(VERDICTS)) == pytest.approx((2 / 5 + 1 + 0 + 3 / 5) / 4)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_pass_at_k_is_the_mean_over_all_subsets(k):
    expected = np.mean([np.mean([any(s) for s in itertools.combinations(row, k)]) for row in VERDICTS])
    assert metrics.pass_at(cell(VERDICTS), k) == pytest.approx(expected)


@pytest.mark.parametrize("k", [0, 6])
def test_pass_at_k_needs_k_samples(k):
    with pytest.raises(KvreproError, match=f"pass@{k}"):
        metrics.pass_at(cell(VERDICTS), k)


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
    assert metrics.maj_at(answers(*pairs)) == pytest.approx(expected)


def test_dynts_major_votes_on_verdicts_and_is_a_lower_bound():
    rows = answers(("1", True), ("1", True), ("2", False), ("3", False), ("4", False))
    assert metrics.dynts_major(rows) == 0.0
    assert metrics.maj_at(rows) == 1.0
    assert metrics.dynts_major(cell(VERDICTS)) == pytest.approx(2 / 4)


def test_majority_compares_with_the_first_of_each_class_by_the_given_equivalence():
    rows = answers(("1/2", True), ("0.5", True), ("2", False), ("2", False))
    values = {"1/2": 0.5, "0.5": 0.5, "2": 2.0}
    assert metrics.maj_at(rows) == 0.0
    assert metrics.maj_at(rows, equivalent=lambda a, b: values[a] == values[b]) == 0.5


def test_majority_of_fewer_samples_is_the_mean_over_random_subsets():
    rows = answers(("1", True), ("1", True), ("2", False))
    exact = np.mean([metrics.maj_value([rows[i] for i in s]) for s in itertools.combinations(range(3), 2)])
    value = metrics.maj_values(rows, 2, n_subsets=4000)["p"]
    assert value == pytest.approx(exact, abs=0.03)
    assert value == metrics.maj_values(rows, 2, n_subsets=4000)["p"]


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


def test_dynts_throughput_and_latency_by_hand():
    assert metrics.dynts_throughput([100, 50], [10.0, 10.0], 20) == pytest.approx((200 + 100) / 2)
    assert metrics.dynts_latency([1.0, 2.5]) == 3.5
    with pytest.raises(KvreproError, match="above 0"):
        metrics.dynts_latency([1.0, 0.0])


NAN = float("nan")


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (metrics.pass_at_values, (5, [6], 1), "right samples"), (metrics.pass_at_values, (5, [-1], 1), "right samples"),
        (metrics.pass_at_values, (5, [1.5], 1), "whole numbers"), (metrics.pass_at_values, (5, [NAN], 1), "not finite"),
        (metrics.pass_at_values, (5, [], 1), "at least 1"), (metrics.pass_at_values, (5, [1], True), "pass@True"),
        (metrics.pass_at_values, (5, [1], 2.5), "pass@2.5"), (metrics.maj_values, (cell(VERDICTS), "2"), "maj@2"),
        (metrics.pass_at_1, (["a", "b"],), "one mapping per reply"), (metrics.pass_at_1, ([1],), "one mapping per"),
        (metrics.answered_share, ([],), "at least 1"), (metrics.truncated_share, ([],), "at least 1"),
        (metrics.answered_share, ([{"answer": 5}],), "expected text or None"),
        (metrics.mean_tokens, ([], "n_thinking_tokens"), "at least 1"),
        (metrics.mean_tokens, ([{"n_thinking_tokens": NAN}], "n_thinking_tokens"), "lack a count"),
        (metrics.dynts_throughput, ([NAN], [1.0], 2), "not finite"),
        (metrics.dynts_throughput, ([1], [1.0], 0), "batch_size"), (metrics.dynts_latency, (["1"],), "numbers"),
    ],
)  # fmt: skip
def test_input_that_is_no_data_is_named(function, arguments, message):
    with pytest.raises(KvreproError, match=message):
        function(*arguments)


def test_an_answer_that_a_data_frame_made_nan_is_none():
    rows = [record("p", 0, False, answer=NAN), record("p", 1, False, answer=NAN), record("p", 2, True, answer="1")]
    assert metrics.answered_share(rows) == pytest.approx(1 / 3)
    assert metrics.maj_at(rows) == 1.0
