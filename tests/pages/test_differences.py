"""Paired differences on the page: which cells are compared, with what, and that the table says what sentences say."""

from __future__ import annotations

import json

import pytest

from kvrepro.errors import KvreproError
from kvrepro.files import write_rows
from kvrepro.pages.differences import paired_differences
from kvrepro.runs.folder import MANIFEST, RECORDS, CellFolder
from kvrepro.runs.profiles import Profile

from .. import panels
from ..cells import SETTINGS, WINDOW, build

FULL = build(SETTINGS)
WINDOW_90, RANDOM_90, DYNTS_90 = (build(WINDOW, method=name) for name in ("window", "random", "dynts"))


@pytest.fixture
def finished():
    """Finishes cells, each with the share of 12 problems that it solves, the first ones, as a profile."""

    def finish(name="mine", /, **shares):
        cells = {"full": FULL, "window": WINDOW_90, "random": RANDOM_90, "dynts": DYNTS_90}
        mine = tuple(cells[key] for key in shares)
        panels.finish(mine, name)
        for cell, solved in zip(mine, shares.values(), strict=True):
            folder = CellFolder.of(name, cell).path
            rows = [dict(problem_id=f"p{i}", sample_id=0, text="", status="ok", gold="") for i in range(12)]
            more = dict(answer="", n_prompt_tokens=1, n_thinking_tokens=1, n_answer_tokens=1)
            write_rows(folder / RECORDS, [row | more | {"correct": i < solved} for i, row in enumerate(rows)])
            manifest = json.loads((folder / MANIFEST).read_text())
            manifest["score"] |= {"pass_at_1": solved / 12, "n_problems": 12}
            (folder / MANIFEST).write_text(json.dumps({**manifest, "n_records": 12}))
        return Profile(name, "Mine", mine)

    return finish


def texts(row):
    return [field.text for field in row.fields]


def test_methods_of_a_budget_are_compared_with_the_full_cache_and_dynts(finished):
    found = paired_differences(finished(full=12, window=2, random=11, dynts=9))
    [(title, sentences)] = found.sentences.items()
    assert title.endswith(", chain-12, 90 slots")
    assert sentences[0].startswith("Of 3 methods the highest is random with 91.7 %")
    heads = [column.name for column in found.table.columns]
    assert [name for name in heads if name.startswith("minus")] == ["minus full", "minus dynts"]
    rows = {row[2]: dict(zip(heads, row, strict=True)) for row in map(texts, found.table.rows)}
    assert list(rows) == ["window", "random", "dynts"]
    assert (rows["window"]["minus full"], rows["window"]["minus dynts"]) == ("-83.3", "-58.3")
    assert rows["dynts"]["minus dynts"] == "\N{EN DASH}"
    assert found.table.rows[0].fields[2].link == f"{WINDOW_90.cell_id}/replies.html"


def test_one_method_a_budget_has_no_differences(finished):
    assert paired_differences(finished(full=12, window=2)) is None
    assert paired_differences(Profile("other", "", (FULL, WINDOW_90, DYNTS_90))) is None


def test_a_comparison_that_cannot_be_made_says_why(finished, monkeypatch):
    profile = finished("compare-mine", window=11, random=2)
    monkeypatch.setattr("kvrepro.pages.differences.Comparison.of", refuse)
    found = paired_differences(profile)
    assert found.sentences == {"Mine": ["Not compared: one problem says nothing."]}
    assert not found.table.rows
    assert paired_differences(Profile("compare-mine", "", (DYNTS_90,))) is None, "nothing is finished"


def refuse(profile):
    raise KvreproError("one problem says nothing")


def test_a_comparison_is_told_as_its_command_tells_it(finished):
    found = paired_differences(finished("compare-mine", window=11, random=2))
    [(_, sentences)] = found.sentences.items()
    assert sentences[0].startswith("window beats random") and "75.0 points" in sentences[0]
    heads = [column.name for column in found.table.columns]
    rows = [dict(zip(heads, texts(row), strict=True)) for row in found.table.rows]
    assert [row["window minus it"] for row in rows] == ["\N{EN DASH}", "+75.0"]
