"""Questions of traces: read strictly, split by problem, and never a benchmark's."""

from __future__ import annotations

import json

import pytest

from kvrepro.benchmarks.chains.problems import split_of
from kvrepro.benchmarks.generated import GENERATED
from kvrepro.benchmarks.table import load_problems
from kvrepro.errors import KvreproError
from kvrepro.training.questions import (
    Question,
    check_leakage,
    normalised,
    questions_hash,
    read_questions,
    tiny_questions,
)

REAL = "Let $x$ be the least whole number whose square exceeds 2024. What is the value of $x$?"


def write(tmp_path, *rows):
    path = tmp_path / "problems.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_generated_questions_come_from_the_split_that_was_asked_for_and_never_repeat():
    for split in ("train", "held_out"):
        questions = tiny_questions(split, 40, (4, 8), 0)
        assert {split_of(q.text) for q in questions} == {split} == {q.split for q in questions}
        assert len({q.text for q in questions}) == len({q.problem_id for q in questions}) == 40
    with pytest.raises(KvreproError, match="never from a benchmark"):
        tiny_questions("benchmark", 1, (8, 12), 0)


def test_a_file_is_read_in_order_with_its_repeats_counted(tmp_path):
    path = write(
        tmp_path,
        {"question": "What is 1+1?", "answer": 2, "kind": "integer"},
        {"problem": "what is  1+1", "gold": "2"},
        "",
        {"question": "What is 2+2?", "answer": "4"},
    )
    questions, counts = read_questions(path, 0.5, 0)
    assert [(q.text, q.gold, q.kind) for q in questions] == [
        ("What is 1+1?", "2", "integer"),
        ("What is 2+2?", "4", "latex"),
    ]
    assert counts == {"rows": 3, "repeated": 1}


def test_the_split_depends_on_the_problem_alone(tmp_path):
    rows = [{"question": f"What is {i} squared?", "answer": i * i} for i in range(400)]
    whole, _ = read_questions(write(tmp_path, *rows), 0.25, 0)
    reversed_, _ = read_questions(write(tmp_path, *rows[::-1]), 0.25, 0)
    assert {q.text: q.split for q in whole} == {q.text: q.split for q in reversed_}
    assert 70 < sum(q.split == "held_out" for q in whole) < 130
    other, _ = read_questions(write(tmp_path, *rows), 0.25, 1)
    assert {q.text: q.split for q in whole} != {q.text: q.split for q in other}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: list, expected an object"),
        ({"question": "x"}, "line 2: no answer or gold"),
        ({"answer": "x"}, "line 2: no question or problem"),
        ({"question": " ", "answer": "x"}, "no question or problem"),
        ({"question": "x", "answer": "1", "kind": "essay"}, "kind='essay', known are integer"),
    ],
)
def test_bad_rows_are_refused_with_their_line(tmp_path, row, message):
    with pytest.raises(KvreproError, match=message):
        read_questions(write(tmp_path, {"question": "ok", "answer": "1"}, row), 0.1, 0)


def test_no_file_and_no_problem_are_refused(tmp_path):
    with pytest.raises(KvreproError, match="no problems in .*keys question, answer"):
        read_questions(tmp_path / "absent.jsonl", 0.1, 0)
    with pytest.raises(KvreproError, match="holds no problem"):
        read_questions(write(tmp_path, ""), 0.1, 0)


def question(text):
    return Question("q", text, "1", "integer", "train")


def test_generated_questions_are_clean_and_a_benchmarks_is_an_error():
    found = check_leakage(tiny_questions("train", 50, (8, 22), 0))
    assert set(GENERATED) <= set(found["checked"])
    leaked = load_problems("sum-16")[7].question
    for text in (leaked, leaked.replace("; ", ";  "), f" {leaked}."):
        with pytest.raises(KvreproError, match="benchmark problems, for example sum-16/sum-16-007"):
            check_leakage([question(text)])


def test_real_benchmarks_are_checked_by_normalised_text_and_by_beginning(tmp_path, monkeypatch):
    rows = [{"id": str(i), "problem": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(29)]
    rows.append({"id": "real", "problem": REAL + " Give it as a number.", "answer": "45"})
    (tmp_path / "aime24.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("KVREPRO_DATA", str(tmp_path))
    found = check_leakage([question("Something else entirely, of no benchmark whatever")], ("aime24",))
    assert "aime24" in found["checked"]
    assert "math500" in found["unchecked"]
    for text in ("what is $3+3$", REAL, REAL.upper().replace(" ", "\n")):
        with pytest.raises(KvreproError, match="aime24/"):
            check_leakage([question(text)])
    with pytest.raises(KvreproError, match="must be checked against math500"):
        check_leakage([question("Another one")], ("math500",))


def test_normalisation_keeps_what_a_problem_means():
    assert normalised("Find $x$ if\\, x = 2.") == normalised("find x if x=2")
    assert normalised("A n:=y-y") != normalised("A n:=y+y")
    assert normalised("\\left( a \\right)") == normalised("(a)")


def test_the_hash_sees_every_field():
    base = question("a")
    for changed in (
        question("b"),
        Question("q", "a", "2", "integer", "train"),
        Question("q", "a", "1", "latex", "train"),
    ):
        assert questions_hash([base]) != questions_hash([changed])
