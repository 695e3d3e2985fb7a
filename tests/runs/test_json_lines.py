"""A line of JSON ends at a line feed only, in every file of rows that the package reads."""

from __future__ import annotations

import ast
import json

import pytest

from kvrepro.benchmarks.real import load_with_provenance
from kvrepro.commands import grade as grade_command
from kvrepro.errors import KvreproError, RunError
from kvrepro.files import lines_of, read_objects, read_rows
from kvrepro.paths import PACKAGE
from kvrepro.runs.folder import read_records
from kvrepro.training.questions import read_questions

# all end a line for `str.splitlines`; JSON leaves the first three unescaped, and escapes the others
SEPARATORS = ("\u2028", "\u2029", "\u0085", "\v", "\f", "\x1c", "\x1d", "\x1e", "\r")
TEXT = "What is" + "".join(f"{mark} one" for mark in SEPARATORS) + "?"


def written(path, rows, start="", end="\n"):
    lines = [json.dumps(row, ensure_ascii=False) + end for row in rows]
    path.write_bytes((start + "".join(lines)).encode("utf-8"))
    return path


FORMS = pytest.mark.parametrize(("start", "end"), [("", "\n"), ("\ufeff", "\n"), ("", "\r\n"), ("\ufeff", "\r\n")])


@FORMS
def test_objects_keep_their_texts_and_lines_their_numbers(tmp_path, start, end):
    path = written(tmp_path / "rows.jsonl", [{"a": TEXT}, {"a": "two"}], start, end)
    assert list(read_objects(path)) == [(1, {"a": TEXT}), (2, {"a": "two"})]


@FORMS
def test_the_rows_of_a_benchmark(tmp_path, start, end):
    rows = [{"id": f"q{i}", "problem": f"{TEXT} {i}", "answer": str(i)} for i in range(30)]
    written(tmp_path / "aime24.jsonl", rows, start, end)
    problems, _ = load_with_provenance("aime24", data_dir=tmp_path)
    assert all(f"{TEXT} {i}" in problem.question for i, problem in enumerate(problems))


@FORMS
def test_questions_to_learn_from(tmp_path, start, end):
    path = written(tmp_path / "math.jsonl", [{"question": f"{TEXT} {i}", "answer": "1"} for i in range(3)], start, end)
    questions, counts = read_questions(path, 0.5, 0)
    assert [q.text for q in questions] == [f"{TEXT} {i}" for i in range(3)]
    assert [q.problem_id for q in questions] == ["math-00001", "math-00002", "math-00003"]
    assert counts["rows"] == 3


RECORD = {"problem_id": "a", "sample_id": 0, "status": "ok", "text": f"{TEXT}</think>{TEXT} \\boxed{{7}}", "gold": "7"}


@FORMS
def test_records_and_completions(tmp_path, start, end):
    path = written(tmp_path / "records.jsonl", [RECORD, {**RECORD, "sample_id": 1}], start, end)
    assert [row["text"] for row in read_records(path)] == [RECORD["text"]] * 2
    assert [row["text"] for row in read_rows(path)] == [RECORD["text"]] * 2
    with path.open("ab") as file:
        file.write(b'{"problem_id": "b", "te')
    assert [row["sample_id"] for row in read_rows(path, drop_cut_tail=True)] == [0, 1]
    with pytest.raises(RunError, match="line 3: not JSON"):
        read_records(path)


def test_records_of_another_system_are_graded(tmp_path):
    row = {**RECORD, "n_prompt_tokens": 1, "n_thinking_tokens": 1, "n_answer_tokens": 1}
    path = written(tmp_path / "records.jsonl", [row], "\ufeff", "\r\n")
    import argparse

    parser = argparse.ArgumentParser()
    grade_command.add_arguments(parser)
    result = grade_command.run(parser.parse_args([str(path), "--kind", "integer"]))
    assert result["cells"][0]["pass_at_1"] == 1.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": ', "line 2: not JSON"),
        (b'\n\n{"b": 1}\n', r"line 3: lacks \['a'\]; found \['b'\]"),
        (b"[1]\n", "line 1: list, expected an object with a"),
        (b'{"a": "\xff"}\n', "no text in UTF-8"),
        ('{"a": 1}\n'.encode("utf-16"), "no text in UTF-8"),
    ],
)
def test_what_is_no_row_is_named_with_its_line(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(KvreproError, match=message):
        list(read_objects(path, ("a",)))


def test_an_empty_file_has_no_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b"")
    assert list(read_objects(tmp_path / "rows.jsonl")) == []
    assert lines_of(b"\xef\xbb\xbfa\r\nb\n", "x") == ["a\r", "b", ""]


def test_no_other_module_takes_rows_apart():
    """`json.loads` of a line that `splitlines` or a text file cut: the fault that this file is about."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            loops = [node] if isinstance(node, ast.For) else getattr(node, "generators", [])
            for loop in loops:
                cuts = ast.unparse(loop.iter)
                cut = "splitlines()" in cuts or "read_text" in cuts or cuts.endswith("open()")
                if cut and "json.loads" in ast.unparse(node):
                    found.append(f"{path.name}: {cuts}")
    assert not found, found
