"""What the notebook of a cell says about it."""

from __future__ import annotations

import pandas as pd

from kvrepro.analysis.cell_findings import budget_sentence, first_of_each_verdict, reply_text, score_sentence

MANIFEST = {
    "config": {"model": "m", "benchmark": "b", "method": "dynts", "budget": 1288, "max_new_tokens": 1600},
    "score": {
        "pass_at_1": 0.375,
        "pass_at_1_lo": 0.103,
        "pass_at_1_hi": 0.758,
        "n_problems": 8,
        "n_samples": 2,
        "truncated_share": 0.125,
    },
    "stats": {"batch_rows": 4, "capacity_tokens": 1024, "bytes_per_slot": 2048, "kv_bytes": 8 * 2**20},
    "kv_tokens_peak": 1324,
    "evictions": 1053,
}


def test_the_score_names_its_cell_its_interval_and_what_was_cut():
    assert score_sentence(MANIFEST) == (
        "m with dynts at a budget of 1,288 tokens solves 37.5 % [10.3, 75.8] of b (8 problems x 2 samples); "
        "12.5 % of the replies were cut at 1,600 tokens."
    )


def test_few_problems_and_the_full_cache_are_said():
    config = MANIFEST["config"] | {"method": "full", "budget": None}
    text = score_sentence(MANIFEST | {"config": config, "score": MANIFEST["score"] | {"n_problems": 7, "n_samples": 1}})
    assert text.startswith("m with full cache solves")
    assert "(7 problems: too few to say more)" in text


def test_the_budget_proof_sets_the_peak_beside_the_limit():
    assert budget_sentence(MANIFEST, 1324) == (
        "No row ever held more than 1,324 slots and 1,324 were allowed: the budget was kept. 1,053 evictions; "
        "K and V storage is 8.0 MiB (4 rows x 1,024 slots x 2,048 bytes)."
    )
    assert "the budget was NOT kept" in budget_sentence(MANIFEST, 1323)


def record(problem, correct, **more):
    fixed = {"sample_id": 0, "gold": "4", "answer": "4" if correct else None, "rule": "boxed:value", "status": "ok"}
    return {"problem_id": problem, "correct": correct, "text": problem, **fixed, **more}


def test_a_wrong_reply_comes_before_a_right_one():
    rows = [record("a", True), record("b", False), record("c", False), record("d", True)]
    frame = pd.DataFrame(rows).assign(n_thinking_tokens=3, n_answer_tokens=1)
    wrong, right = first_of_each_verdict(frame)
    assert wrong == "WRONG: b, sample 0\ngold 4 | extracted none | rule boxed:value | status ok\n\nb"
    assert right.startswith("RIGHT: a, sample 0\ngold 4 | extracted 4 |")
    assert [text[:8] for text in first_of_each_verdict(frame[frame.correct])] == ["RIGHT: a"]


def test_a_reply_carries_its_question_and_a_long_one_loses_its_middle():
    text = reply_text(record("a", True, question="find b", text="x" * 900 + "y" * 1234 + "z" * 600))
    assert "question: find b\n" in text
    assert text.endswith("x\n[... 1,234 characters ...]\n" + "z" * 600)
    assert "y" not in text
