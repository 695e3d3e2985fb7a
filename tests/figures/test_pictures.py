"""Replies as pictures on a profile's page: which cells, the same replies as the records, nothing unescaped."""

from __future__ import annotations

import json
import warnings
from html.parser import HTMLParser

import pytest

from kvrepro.errors import KvreproError
from kvrepro.figures import reply_pictures as pictures
from kvrepro.pages.index import write_index
from kvrepro.figures.reply_pictures import PictureSet, drawn_cells, reply_pictures
from kvrepro.figures.token_picture import TokenPicture
from kvrepro.models.loading import load_model
from kvrepro.models.table import model_entry
from kvrepro.paths import results_root
from kvrepro.runs.config import CellConfig
from kvrepro.runs.folder import CellFolder, read_records
from kvrepro.runs.profiles import Profile
from kvrepro.runs.runner import replay_cell, run_cell
from kvrepro.runs.summary import summarise_profile

COMMON = dict(model="tiny-r1-llama", benchmark="chain-12", n_problems=2, max_new_tokens=90, window=32, ratio=0.75)


def cell(method="dynts", budget=140, **changes):
    return CellConfig(**{**COMMON, "method": method, "budget": budget, **changes})


def ids(*cells):
    return {c.cell_id for c in cells}


def test_a_middle_budget_is_drawn_beside_equal_pins():
    full = CellConfig("tiny-r1-llama", "chain-12")
    cells = [full, *(cell(budget=b) for b in (130, 140, 150)), cell("window"), cell("random")]
    profile = Profile("p", "P", tuple(cells))
    [(ours, beside)] = drawn_cells(profile, ids(*cells))
    assert (ours.budget, beside.method) == (140, "random")
    [(_, beside)] = drawn_cells(profile, ids(*cells[:5]))
    assert beside.method == "window"


def test_without_another_method_random_stands_beside_with_equal_settings():
    cells = (cell(budget=130), cell(options={"pin_answer": False}))
    [(ours, beside)] = drawn_cells(Profile("p", "P", cells), ids(*cells))
    assert (ours.budget, beside.method, beside.budget, beside.options) == (130, "random", 130, None)
    assert drawn_cells(Profile("p", "P", (cell("window"),)), ids(cell("window"))) == []
    assert drawn_cells(Profile("p", "P", cells), set()) == []


@pytest.fixture
def profile(tmp_path):
    """A profile of which `dynts` is finished and `window` is not."""
    made = Profile("p", "A <profile>", (cell(), cell("window")))
    folder = CellFolder.of("p", made.cells[0]).path
    run_cell(made.cells[0], folder)
    (folder / "run.ipynb").write_text("{}")
    return made


def test_pictures_are_the_replies_of_the_records(profile):
    frame = summarise_profile(profile)
    [found] = reply_pictures(profile, set(frame.cell_id), 2)
    assert [p.title.split(" | ")[2:] for p in found.pictures] == [
        [f"{method} 140", f"chain-12-00{i}"] for i in range(2) for method in ("dynts", "random")
    ]
    for drawn in found.pictures[::2]:
        assert drawn.caption.endswith("The reply in records.jsonl.")
        assert any(number is not None for number in drawn.lost_at)
        assert any(shade is not None for shade in drawn.shades)
    assert all(p.caption.endswith("generated for this page.") for p in found.pictures[1::2])
    page = write_index(profile, frame, [found]).read_text()
    assert page.count("<details") == 4
    assert page.count("<details open") == 2
    assert "<script" not in page
    lost = sum(sum(n is not None for n in p.lost_at) for p in found.pictures)
    assert page.count("<s>") == lost + 4, "each token lost, and one in each legend"


def test_a_reply_is_repeated_whatever_its_batch_was(profile):
    model, tokenizer = load_model(model_entry("tiny-r1-llama"), "cpu")
    records = read_records(CellFolder.of("p", profile.cells[0]).path)
    replies = replay_cell(profile.cells[0], model, tokenizer, 1)
    assert [record["text"] for _, record in replies] == [records[0]["text"]]
    assert len(replies[0][0].kept_positions) == replies[0][0].evictions > 0
    # another seed gives another text, and the caption must say so
    other = {("chain-12-000", 0): "something else"}
    drawn = pictures._pictured(profile.cells[0], model, tokenizer, None, *replies[0], other)
    assert drawn.caption.endswith("records.jsonl holds another text.")
    assert "for want of a head" in drawn.caption


def test_long_replies_are_drawn_on_request_only_and_failures_are_named(monkeypatch):
    long = cell(max_new_tokens=9999)
    [found] = reply_pictures(Profile("p", "P", (long,)), ids(long))
    assert found.pictures == ()
    assert "`kvrepro summary p --pictures 2`" in found.note

    def broken(*args):
        raise KvreproError("no weights here")

    monkeypatch.setattr(pictures, "_drawn", broken)
    [found] = reply_pictures(Profile("p", "P", (long,)), ids(long), 1)
    assert found.note == "Not drawn: no weights here"


class Tags(HTMLParser):
    """Tags and whether they close in order."""

    def __init__(self):
        super().__init__()
        self.tags, self.open = set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in ("br", "img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_text_on_the_page_cannot_become_markup():
    hostile = '<script>alert("x")</script>'
    picture = TokenPicture([hostile, "b"], ["thought", "thought"], [0.1, 0.2], [[1]], hostile, hostile)
    sets = [PictureSet(hostile, (picture,)), PictureSet("m", note=hostile)]
    (results_root() / "p").mkdir(parents=True)
    empty = Profile("p", "P", ())
    page = write_index(empty, summarise_profile(empty), sets).read_text()
    parsed = Tags()
    parsed.feed(page)
    assert "script" not in parsed.tags
    assert {"details", "summary", "s", "sub"} <= parsed.tags
    assert page.count("&lt;script&gt;") == 6


def test_scores_of_an_older_grader_are_named(profile):
    folder = CellFolder.of("p", profile.cells[0]).path
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summarise_profile(profile)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["grader_revision"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.warns(RuntimeWarning, match="1 cells, .* were scored by another revision of the grader"):
        summarise_profile(profile)
