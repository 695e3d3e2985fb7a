"""The table of grading cases by kind, and the golds of the data sets against themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvrepro.files import read_objects
from kvrepro.graders import KINDS, grade_many

CASES = Path(__file__).parents[1] / "cases"
DATA = Path(__file__).parents[3] / "shared" / "data"


def load(kind: str) -> list[dict]:
    return json.loads((CASES / f"{kind}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_case_of_the_table(kind):
    cases = load(kind)
    items = [
        {
            "response": c["response"],
            "gold": c["gold"],
            "kind": kind,
            "finish_reason": c.get("finish_reason", "stop"),
            "options": c.get("options"),
        }
        for c in cases
    ]
    scores = grade_many(items, workers=1)
    # `missed` says what a right answer needs that no rule reads; a rule that reads it takes the mark away
    wrong = [
        f"gold {c['gold']!r}, reply ...{c['response'][-80:]!r}: {s.correct}, expected {c['correct']} ({s.rule})"
        for c, s in zip(cases, scores, strict=True)
        if s.correct != (c["correct"] and "missed" not in c)
    ]
    assert not wrong, "\n".join(wrong)
    assert not [s for s in scores if s.status.startswith("grader")]


def test_the_table_is_large_and_says_why():
    cases = [{"kind": kind, **case} for kind in KINDS for case in load(kind)]
    assert len(cases) >= 300
    assert all(case["source"] and case["reason"] for case in cases)
    assert sum("missed" in case for case in cases) <= 1
    keys = [(c["kind"], c["gold"], c["response"], c.get("finish_reason")) for c in cases]
    assert len(keys) == len(set(keys))


@pytest.mark.skipif(not DATA.is_dir(), reason="the data sets lie beside the checkout and are not there")
@pytest.mark.parametrize(
    ("name", "kind"),
    [("aime24", "integer"), ("aime25", "integer"), ("amc23", "integer"), ("gk23en", "latex"), ("math500", "latex")],
)
def test_golds_equal_themselves_and_not_their_neighbours(name, kind):
    golds = [row["answer"] for _, row in read_objects(DATA / f"{name}.jsonl")]
    respelled = [gold.replace("\\frac", "\\dfrac").replace("(", "\\left(").replace(")", "\\right)") for gold in golds]
    scores = grade_many(
        [(f"</think>\\boxed{{{r}}}", g, kind) for r, g in zip(respelled, golds, strict=True)], workers=1
    )
    assert [g for g, s in zip(golds, scores, strict=True) if not s.correct] == []
    others = golds[1:] + golds[:1]
    scores = grade_many([(f"</think>\\boxed{{{o}}}", g, kind) for o, g in zip(others, golds, strict=True)], workers=1)
    accepted = [(o.strip("$ "), g.strip("$ ")) for o, g, s in zip(others, golds, scores, strict=True) if s.correct]
    # `x = 5` and the set {5} are ways to write a gold of 5
    assert [(o, g) for o, g in accepted if o.lstrip("0") != g.lstrip("0") and not {"=", "{"} & set(o + g)] == []
