"""Where the answer begins: recorded from token ids, and only searched for in the text where nobody recorded it."""

from __future__ import annotations

import pytest

from kvrepro.analysis.grader_review import compare_graders
from kvrepro.errors import KvreproError
from kvrepro.graders import GRADERS, grade, grade_many
from kvrepro.graders.grading import MAX_SENT
from kvrepro.runs.grading import regrade

THOUGHT = "I close with </think> and say \\boxed{7}. "


def test_the_tag_in_words_inside_an_answer_does_not_cut_it():
    text = "x</think>The answer is \\boxed{7}. The tag </think> closes a thought."
    assert grade(text, "7", "integer", answer_start=9).correct
    # unknown: the last tag counts
    assert grade(text, "7", "integer").status == "no_answer"


def test_a_truncated_thought_is_never_right():
    score = grade(THOUGHT, "7", "integer", finish_reason="length", answer_start=None)
    assert (score.correct, score.status, score.answer, score.rule) == (False, "truncated", None, "thought")
    assert grade(THOUGHT, "7", "integer", finish_reason="length").correct


def test_a_reply_that_stopped_by_itself_without_closing_a_thought_is_an_answer_unless_it_opened_one():
    text = "so c=7 and the answer is \\boxed{7}"
    for start in ({}, {"answer_start": None}):
        assert grade(text, "7", "integer", **start).correct
        assert grade(f"<think>{text}", "7", "integer", **start).status == "no_answer"
    # the tag in words ended nothing
    assert grade("\\boxed{7} before </think>", "7", "integer", answer_start=None).correct


def test_a_model_that_does_not_think_answers_from_the_start():
    for reason in ("stop", "length"):
        assert grade("It is \\boxed{7}", "7", "integer", finish_reason=reason, answer_start=0).correct
    assert grade("", "7", "integer", answer_start=0).status == "no_answer"


def test_items_may_say_it_each_for_itself():
    item = {"response": THOUGHT, "gold": "7", "kind": "integer"}
    scores = grade_many([item, {**item, "answer_start": None}, {**item, "answer_start": len(THOUGHT) - 4}])
    assert [score.correct for score in scores] == [True, True, False]


@pytest.mark.parametrize("n_dropped", [1, 2 * MAX_SENT])
def test_only_the_end_of_a_very_long_reply_is_read_and_the_start_moves_with_it(n_dropped):
    answer = "</think> is a tag; \\boxed{7}</think>"
    text = "x" * (MAX_SENT - len(answer) + n_dropped) + answer
    assert grade(text, "7", "integer", answer_start=len(text) - len(answer)).correct
    assert grade(text, "7", "integer", answer_start=5).correct
    assert not grade(text, "7", "integer").correct
    assert grade("</think>" + "x" * MAX_SENT + " \\boxed{7}", "7", "integer", finish_reason="length").correct
    assert grade("<think>" + "x" * MAX_SENT + " \\boxed{7}", "7", "integer").rule == "thought"


@pytest.mark.parametrize("start", [-2, 99, 1.0, True, "9"])
def test_a_start_outside_the_reply_is_an_error(start):
    with pytest.raises(KvreproError, match="answer_start"):
        grade("x</think>7", "7", "integer", answer_start=start)


def record(text, status, **others):
    return {"problem_id": "a", "sample_id": 0, "status": status, "text": text, "gold": "7", **others}


RECORDS = [
    record("x</think>\\boxed{7} </think> it says", "ok", answer_start=9),
    record("x</think>\\boxed{7}", "ok"),
    record("x</think>\\boxed{7} and", "length_limit", answer_start=9),
    record(THOUGHT, "truncated"),
    record(THOUGHT, "truncated", answer_start=None),
    # what was drawn from logits that are no numbers is no answer, wherever it stands
    record("x</think>\\boxed{7}", "nan_logits", answer_start=9),
    record(THOUGHT, "nan_logits", answer_start=None),
]


@pytest.mark.parametrize("grader", GRADERS)
def test_a_written_record_never_contradicts_itself(grader):
    graded = regrade(RECORDS, "integer", grader)
    for row in graded:
        assert not (row["correct"] and row["status"] not in ("ok", "length_limit"))
    assert [row["status"] for row in graded[-2:]] == ["nan_logits"] * 2
    if grader == "strict":
        assert [row["correct"] for row in graded] == [True, True, True, False, False, False, False]
        assert [row["status"] for row in graded[3:5]] == ["truncated"] * 2
        assert [row["answer"] for row in graded[3:]] == [None] * 4
        # graded again, nothing changes
        assert regrade(graded, "integer") == graded
    else:
        # DynTS cuts at the last tag in the text, and grades thoughts that never ended
        assert [row["correct"] for row in graded] == [False, True, True, True, True, False, False]
        assert [row["status"] for row in graded[3:5]] == ["length_limit"] * 2


def test_a_wording_that_dynts_takes_for_the_choice_is_an_answer():
    score = grade("</think>stays the same", "stays the same", "choice", grader="dynts_compat")
    assert (score.correct, score.status) == (True, "ok")


def test_both_graders_side_by_side_agree_with_the_records():
    frame = compare_graders([{**row, "kind": "integer", "sample_id": i} for i, row in enumerate(RECORDS)])
    assert list(frame.sort_values("sample_id").strict) == [True, True, True, False, False, False, False]
