"""A cell's page: wrong replies first, nothing of them as markup, written again only where something changed."""

from __future__ import annotations

import json
import re

import pytest

from kvrepro.benchmarks.table import load_problems
from kvrepro.files import write_rows
from kvrepro.pages.replies import held_sentence, write_replies
from kvrepro.runs.config import CellConfig
from kvrepro.runs.folder import MANIFEST, RECORDS, CellFolder
from kvrepro.runs.profiles import Profile

from .. import panels

CELL = panels.CELLS[1]
PROFILE = Profile("mine", "My <profile>", panels.CELLS)
HOSTILE = '</pre><script>alert("x")</script>'


def record(number, correct, **changes):
    text = f"thought {number}</think>answer {number}"
    return {
        "problem_id": f"chain-12-{number:03}",
        "sample_id": 0,
        "status": "ok",
        "text": text,
        "answer_start": text.index("answer"),
        "gold": "1",
        "answer": "1" if correct else "2",
        "correct": correct,
        "rule": "boxed:text",
        "n_prompt_tokens": 60,
        "n_thinking_tokens": 1200,
        "n_answer_tokens": 3,
        "evictions": 4,
        "peak_tokens": 95,
        **changes,
    }


def put(*records, cell=CELL, **changes):
    """The records of a cell, and what its manifest says of them."""
    folder = CellFolder.of("mine", cell).path
    write_rows(folder / RECORDS, records)
    known = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**known, "n_records": len(records), **changes}))


@pytest.fixture
def page(tmp_path):
    """Writes the page of the cell, once there are records, and gives its text."""
    panels.finish()

    def write(*records):
        put(*records)
        assert write_replies(PROFILE, CELL, tmp_path)
        return (tmp_path / CELL.cell_id / "replies.html").read_text()

    return write


def anchors(html):
    return re.findall(r'<details class="reply (\w+)" id="([^"]+)"', html)


def test_wrong_replies_come_first_and_both_kinds_in_their_order(page):
    html = page(record(0, True), record(1, False), record(2, True), record(3, False))
    assert anchors(html) == [
        ("wrong", "chain-12-001-0"),
        ("wrong", "chain-12-003-0"),
        ("right", "chain-12-000-0"),
        ("right", "chain-12-002-0"),
    ]
    assert "2 wrong, then 2 right." in html


def test_a_reply_says_what_became_of_it(page):
    html = page(record(1, False, status="length_limit"))
    summary = re.search(r"<summary>(.*?)</summary>", html, re.DOTALL)[1]
    shown = " ".join(re.sub(r"<[^>]+>", " ", summary).split())
    assert shown == "wrong chain-12-001 answer 2 gold 1 length_limit"
    assert '<pre class="thought">\nthought 1&lt;/think&gt;</pre>' in html
    assert '<pre class="answer">\nanswer 1</pre>' in html
    assert "prompt 60, thought 1,200, answer 3" in html
    assert 'data-picture="pictures/chain-12-001-0.js"' in html
    assert '<option value="status:length_limit">length_limit (1)</option>' in html


def test_a_thought_that_never_closed_has_no_answer(page):
    html = page(record(1, False, answer_start=None, answer=None))
    assert "the thought never closed" in html and 'class="answer"' not in html
    assert "answer <q>none</q>" in html


def test_the_question_is_the_records_or_the_benchmarks(page):
    known = load_problems("chain-12")[1].question
    assert f"<pre>\n{known}</pre>" in page(record(1, True))
    html = page(record(1, True, question="What is <1>?"))
    assert "<pre>\nWhat is &lt;1&gt;?</pre>" in html and known not in html


def test_a_question_that_is_not_on_this_machine_is_said_to_be_unknown(tmp_path):
    config = CellConfig("tiny-r1-llama", "math500", n_problems=1, max_new_tokens=8)
    panels.finish([config])
    put(record(1, True), cell=config)
    write_replies(Profile("mine", "", (config,)), config, tmp_path)
    assert "the rows of math500 are not on the machine" in (tmp_path / config.cell_id / "replies.html").read_text()


def test_text_of_a_model_is_never_markup(page):
    fields = ("text", "gold", "answer", "question", "problem_id", "status", "rule")
    html = page(record(1, False, **dict.fromkeys(fields, HOSTILE), answer_start=3))
    assert "<script>" not in html and html.count("</script>") == html.count("<script ")
    # and if it were, no script would run that is not a file of the page
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html
    assert "script-src 'self' file:\"" in html.replace("&#39;", "'")
    assert not re.search(r'id="[^"]*[^\w.-][^"]*" data-status', html)


def test_half_a_character_does_not_stop_the_page(page):
    assert "answer ?" in page(record(1, True, text="answer \ud83d", answer_start=0))


def test_a_page_is_written_again_only_where_something_changed(page, tmp_path):
    page(record(0, True))
    assert not write_replies(PROFILE, CELL, tmp_path)
    put(record(0, False))
    assert write_replies(PROFILE, CELL, tmp_path)
    put(record(0, False), wall_s=11.0)
    assert write_replies(PROFILE, CELL, tmp_path)
    assert write_replies(Profile("mine", "Another title", panels.CELLS), CELL, tmp_path)


def test_whether_the_budget_held():
    found = {"kv_tokens_peak": 91, "method": {"slack_tokens": 1}}
    room = "(90 and 1 of slack until the next eviction)"
    assert held_sentence(CELL, found) == f"The budget held: a reply had 91 slots at most, and 91 are allowed {room}."
    assert held_sentence(CELL, {**found, "kv_tokens_peak": 92, "pin_overflow_tokens": 3}) == (
        f"The budget did not hold: a reply had 92 slots, and 91 are allowed {room}. 3 pinned tokens did not fit."
    )
    assert held_sentence(panels.CELLS[0], found) == "No budget: a reply held 91 slots at most."
