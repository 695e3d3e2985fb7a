"""`kvrepro grade` and `kvrepro power`: beside and never over, whole or not at all, errors by name."""

from __future__ import annotations

import argparse
import json
import sys

import pytest

from kvrepro.commands import grade, power
from kvrepro.errors import KvreproError, RunError
from kvrepro.runs.folder import read_records
from kvrepro.runs.grading import check_same_problems


def record(problem, sample, text, gold="27", status="ok", **others):
    return {
        "problem_id": problem,
        "sample_id": sample,
        "status": status,
        "text": text,
        "answer": None,
        "gold": gold,
        **{"correct": False},
        "n_prompt_tokens": 1,
        "n_thinking_tokens": 5,
        "n_answer_tokens": 2,
        **others,
    }


RECORDS = [
    record("a", 0, "x</think>\\boxed{27}"),
    record("a", 1, "x</think>\\boxed{2700}"),
    record("b", 0, "I think \\boxed{27}", status="truncated"),
    record("b", 1, "x</think>no idea"),
]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(command, *arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(a) for a in arguments]))


def test_regrading_writes_beside_and_leaves_the_original(tmp_path, capsys):
    path = write(tmp_path / "records.jsonl", RECORDS)
    before = path.read_bytes()
    result = run(grade, path, "--kind", "integer")
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["records.jsonl", "records.strict.jsonl"]
    graded = read_records(tmp_path / "records.strict.jsonl")
    assert [row["correct"] for row in graded] == [True, False, False, False]
    assert [row["status"] for row in graded] == ["ok", "ok", "truncated", "no_answer"]
    assert result["cells"][0]["pass_at_1"] == 0.25
    assert result["cells"][0]["changed"] == 1
    assert "n=2, k=2" in capsys.readouterr().out
    compat = run(grade, path, "--kind", "integer", "--grader", "dynts_compat")
    assert compat["cells"][0]["pass_at_1"] == 0.75


def test_a_folder_is_searched_and_the_manifest_tells_the_kind(tmp_path):
    for name in ("one", "two", ".two.partial"):
        path = write(tmp_path / name / "records.jsonl", RECORDS)
        path.with_name("manifest.json").write_text(json.dumps({"config": {"benchmark": "aime24"}}))
    result = run(grade, tmp_path)
    assert [cell["kind"] for cell in result["cells"]] == ["integer", "integer"]
    assert not (tmp_path / ".two.partial" / "records.strict.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", KvreproError, "no records"),
        ('{"problem_id": "a"', RunError, "not JSON"),
        ('{"problem_id": "a"}\n', KvreproError, "lacks"),
        ("[]\n", KvreproError, "expected an object with problem_id"),
    ],
)
def test_unreadable_records_are_named_errors(tmp_path, text, error, message):
    path = tmp_path / "records.jsonl"
    path.write_text(text)
    with pytest.raises(error, match=message):
        run(grade, path, "--kind", "integer")
    assert [p.name for p in tmp_path.iterdir()] == ["records.jsonl"]


def test_missing_records_kind_and_regraded_input_are_errors(tmp_path):
    with pytest.raises(KvreproError, match="is no file"):
        run(grade, tmp_path / "nothing.jsonl")
    with pytest.raises(KvreproError, match=r"no records\.jsonl"):
        run(grade, tmp_path)
    with pytest.raises(KvreproError, match="--kind"):
        run(grade, write(tmp_path / "records.jsonl", RECORDS))
    with pytest.raises(KvreproError, match="itself a regraded"):
        run(grade, write(tmp_path / "records.strict.jsonl", RECORDS))


def test_records_of_another_benchmark_are_an_error():
    with pytest.raises(KvreproError, match="another benchmark"):
        check_same_problems(RECORDS, {"a": "27"}, "aime24")
    with pytest.raises(KvreproError, match="golds"):
        check_same_problems(RECORDS, {"a": "27", "b": "28"}, "aime24")
    check_same_problems(RECORDS, {"a": "27", "b": "27"}, "aime24")


def test_power_from_assumptions_and_from_records(tmp_path, capsys):
    result = run(power, 2.6)
    assert result["samples_needed"] is None
    assert result["problems_needed"] > 300
    assert "more problems" in capsys.readouterr().out
    rows = [record(f"p{i}", j, "", correct=(i * 7 + j * 3) % 5 < 2) for i in range(12) for j in range(4)]
    paths = [write(tmp_path / f"{name}.jsonl", rows) for name in ("a", "b")]
    assert run(power, 5, "--problems", 30, "--records", *paths)["spread_from"] == "records"
    with pytest.raises(KvreproError, match="power=80.0; expected a fraction"):
        run(power, 5, "--power", 80)


def gpqa_like(folder, golds="BCDA"):
    """A benchmark folder with ready-made four-option questions under GPQA's name and size."""
    lines = [
        {
            "id": f"r{i}",
            "problem": f"How high is tower {i}?\nA) 12 m\nB) 14 m\nC) 16 m\nD) 18 m",
            "answer": golds[i % 4],
        }
        for i in range(198)
    ]
    return write(folder / "gpqa_d.jsonl", lines)


def gpqa_records(folder, gold="B"):
    path = write(folder / "records.jsonl", [record("r0", 0, "x</think>The tower is \\boxed{14 m} high.", gold=gold)])
    path.with_name("manifest.json").write_text(json.dumps({"config": {"benchmark": "gpqa_d", "prompt_style": "dynts"}}))
    return path


def test_an_option_given_by_its_text_is_graded_with_the_benchmark_at_hand(tmp_path, monkeypatch):
    gpqa_like(tmp_path / "data")
    monkeypatch.setenv("KVREPRO_DATA", str(tmp_path / "data"))
    path = gpqa_records(tmp_path / "run")
    assert run(grade, path)["cells"][0]["pass_at_1"] == 1.0
    # the options' texts stay where they were
    assert "16 m" not in path.with_name("records.strict.jsonl").read_text()


def test_without_the_benchmark_the_text_of_an_option_is_no_letter_and_that_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("KVREPRO_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert run(grade, gpqa_records(tmp_path))["cells"][0]["pass_at_1"] == 0.0
    assert "without the options' texts" in capsys.readouterr().err


def test_records_that_do_not_fit_the_benchmark_of_their_manifest_are_refused(tmp_path, monkeypatch):
    gpqa_like(tmp_path / "data")
    monkeypatch.setenv("KVREPRO_DATA", str(tmp_path / "data"))
    path = gpqa_records(tmp_path / "run", gold="D")
    with pytest.raises(KvreproError, match="golds of gpqa_d differ"):
        run(grade, path)
    assert not path.with_name("records.strict.jsonl").exists()


def test_all_metrics_come_with_their_intervals(tmp_path, capsys):
    path = write(tmp_path / "records.jsonl", RECORDS)
    [cell] = run(grade, path, "--kind", "integer", "--metrics")["cells"]
    found = {row["metric"]: row["score"] for row in cell["metrics"]}
    # a: 27 and 2700 tie, so half the credit; b: nobody votes
    assert found == {"pass@1": 0.25, "pass@2": 0.5, "maj@2": 0.25, "dynts_major": 0.0}
    assert "maj@2: 25.0 [" in capsys.readouterr().out
