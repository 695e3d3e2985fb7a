"""Replies as pictures on a profile's page: which cells, the same replies as the records, nothing unescaped."""

from __future__ import annotations

import json
import re
import warnings

import pytest

from kvrepro.errors import KvreproError
from kvrepro.figures import reply_pictures as pictures
from kvrepro.figures.reply_pictures import (
    PictureMaker,
    cell_picture,
    drawn_cells,
    picture_file,
    picture_script,
    write_pictures,
)
from kvrepro.models.loading import load_model
from kvrepro.models.table import model_entry
from kvrepro.pages.index import write_index
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
    # a comparison whose only cells are of the full cache
    full = CellConfig("tiny-r1-llama", "chain-12")
    assert drawn_cells(Profile("compare-full", "P", (full,)), ids(full)) == []


def test_a_comparison_draws_a_method_beside_itself_under_another_switch():
    common = dict(ratio=None, protocol="fair")
    cells = (cell("h2o", **common), cell("h2o", options={"pin_question": True}, **common), cell("random", **common))
    assert drawn_cells(Profile("compare-h2o", "P", cells), ids(*cells)) == [cells[:2]]


@pytest.fixture
def profile(tmp_path):
    """A profile of which `dynts` is finished and `window` is not."""
    made = Profile("p", "A <profile>", (cell(), cell("window")))
    folder = CellFolder.of("p", made.cells[0]).path
    run_cell(made.cells[0], folder)
    (folder / "run.ipynb").write_text("{}")
    return made


def content(text):
    """What a picture file calls: cell, problem, sample and data."""
    return json.loads(f"[{re.fullmatch(r'kvrepro.picture[(](.*)[)];', text.strip())[1]}]")


def test_pictures_are_the_replies_of_the_records(profile, tmp_path):
    frame = summarise_profile(profile)
    [found] = write_pictures(profile, set(frame.cell_id), tmp_path, 2)
    assert [[p.title.split(" | ")[2:] for p in row] for row in found.rows] == [
        [[f"{method} 140", f"chain-12-00{i}"] for method in ("dynts", "random")] for i in range(2)
    ]
    for ours, beside in found.rows:
        assert ours.caption.endswith("The reply in records.jsonl.")
        assert beside.caption.endswith("generated for this picture.")
        assert ours.src == f"{profile.cells[0].cell_id}/pictures/{ours.problem_id}-0.js"
        assert beside.src.startswith("pictures/"), "the place of a cell that has not run stays free"
        *names, data = content((tmp_path / ours.src).read_text())
        assert names == [ours.cell_id, ours.problem_id, 0]
        assert (data["title"], data["caption"], data["budget"]) == (ours.title, ours.caption, 140)
        assert any(number is not None for number in data["lost_at"])
        assert any(shade is not None for shade in data["shades"])
    page = write_index(profile, frame, tmp_path, [found]).read_text()
    assert page.count("data-pictures=") == 2
    assert all(picture.src in page for picture in found.pictures)


def test_a_picture_counts_the_slots_of_the_record(profile):
    folder = CellFolder.of("p", profile.cells[0]).path
    for record in read_records(folder):
        name = picture_file(record["problem_id"], 0)
        data = content(cell_picture(folder, name, PictureMaker()))[3]
        assert len(data["sizes"]) == record["evictions"] > 0
        # the last token of a reply is never put into the cache
        sizes = [*data["sizes"], len(data["tokens"]) - 1]
        taken = [sum(n is not None and n <= e for n in data["lost_at"]) for e in range(len(sizes))]
        assert max(size - gone for size, gone in zip(sizes, taken, strict=True)) == record["peak_tokens"]


def test_any_reply_of_a_finished_cell_has_a_picture_and_no_other(profile):
    folder = CellFolder.of("p", profile.cells[0]).path
    *names, data = content(cell_picture(folder, "chain-12-001-0.js", PictureMaker()))
    assert names == [profile.cells[0].cell_id, "chain-12-001", 0]
    assert data["caption"].endswith("The reply in records.jsonl.")
    for name in ("chain-12-001-1.js", "chain-12-099-0.js", "../records.jsonl"):
        assert cell_picture(folder, name, PictureMaker()) is None


def test_a_cell_that_would_be_another_one_today_is_not_drawn(profile):
    folder = CellFolder.of("p", profile.cells[0]).path
    manifest = json.loads((folder / "manifest.json").read_text())
    # as if weights, rows or a file of the method had been others then
    then = manifest["cell_id"].replace(profile.cells[0].hash8, "01234567")
    (folder / "manifest.json").write_text(json.dumps({**manifest, "cell_id": then}))
    with pytest.raises(KvreproError, match=f"cell {then} would be {profile.cells[0].cell_id} today"):
        cell_picture(folder, "chain-12-001-0.js", PictureMaker())


def test_code_that_comes_with_results_is_not_run(tmp_path):
    file = results_root() / "evil.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    marker = tmp_path / "was run"
    code = f"import kvrepro\nopen({str(marker)!r}, 'w')\nclass Evil(kvrepro.EvictionMethod):\n    name = 'evil'\n"
    file.write_text(code)
    config = cell(f"{file}:Evil", ratio=None, protocol="fair")
    with pytest.raises(KvreproError, match=r"evil.py:Evil lies among the results"):
        PictureMaker().pictures(config, [("chain-12-000", 0)], None)
    assert not marker.exists()


def test_the_name_of_a_picture_file_is_plain_and_its_own():
    assert picture_file("aime24-3", 12) == "aime24-3-12.js"
    strange = ["a/../b", "a:..:b", "../b", "..", "", "<s>", "CON ", "x" * 300, "\u2028", "\ud800"]
    names = [picture_file(problem_id, 0) for problem_id in strange]
    assert len(set(names)) == len(strange)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,110}\.js", name) for name in names)


def test_a_picture_file_is_a_script_whatever_it_says():
    hostile = "</script>\u2028\u2029<!--"
    text = picture_script("c", (hostile, 0), {"error": hostile})
    assert content(text) == ["c", hostile, 0, {"error": hostile}]
    assert text.isascii()
    assert "<" not in text


def test_a_reply_is_repeated_whatever_its_batch_was(profile):
    model, tokenizer = load_model(model_entry("tiny-r1-llama"), "cpu")
    records = read_records(CellFolder.of("p", profile.cells[0]).path)
    replies = replay_cell(profile.cells[0], model, tokenizer, [("chain-12-001", 0), ("chain-12-000", 0)])
    assert [record["text"] for _, record in replies] == [records[1]["text"], records[0]["text"]]
    assert len(replies[0][0].kept_positions) == replies[0][0].evictions > 0
    # another seed gives another text, and the caption must say so
    other = {("chain-12-000", 0): "something else"}
    drawn = pictures._pictured(profile.cells[0], model, tokenizer, None, *replies[1], other)
    assert drawn.caption.endswith("records.jsonl holds another text.")
    assert "for want of a head" in drawn.caption
    for key in (("chain-12-002", 0), ("chain-12-000", 1), ("chain-12-000", -1)):
        with pytest.raises(KvreproError, match="problems chain-12-000 to chain-12-001, samples 0 to 0"):
            replay_cell(profile.cells[0], model, tokenizer, [key])


def test_per_head_decisions_are_named_in_the_caption():
    [(drawn, record)] = PictureMaker().pictures(cell("rkv", ratio=None, protocol="fair"), [("chain-12-000", 0)], None)
    assert "Slots are those of the first layer and KV head." in drawn.caption
    assert drawn.caption.startswith(f"Answered {record['answer'] or 'nothing'}, ")


def test_long_replies_are_drawn_on_request_only_and_failures_are_named(monkeypatch, tmp_path):
    long = cell(max_new_tokens=9999)
    [found] = write_pictures(Profile("p", "P", (long,)), ids(long), tmp_path)
    assert found.pictures == ()
    assert "`kvrepro summary p --pictures 2`" in found.note

    def broken(*args):
        raise KvreproError("no weights here")

    monkeypatch.setattr(pictures, "_written", broken)
    [found] = write_pictures(Profile("p", "P", (long,)), ids(long), tmp_path, 1)
    assert found.note == "Not drawn: no weights here"

    def failing(*args):
        raise ValueError("a score\nof the user's own")

    monkeypatch.setattr(pictures, "_written", failing)
    [found] = write_pictures(Profile("p", "P", (long,)), ids(long), tmp_path, 1)
    assert found.note == "Not drawn: ValueError: a score of the user's own"


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
