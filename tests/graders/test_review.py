"""The grading notebook's frame and table."""

from __future__ import annotations

import json

from kvrepro.graders.review import against_published, case_replies, compare_graders, filterable, run_replies
from kvrepro.paths import project_root


def reply(problem, text, gold="27", status="ok"):
    return {
        "problem_id": problem, "sample_id": 0, "status": status, "text": text, "answer": None, "gold": gold,
        "correct": False, "n_prompt_tokens": 1, "n_thinking_tokens": 1, "n_answer_tokens": 1, "kind": "integer",
    }  # fmt: skip


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
