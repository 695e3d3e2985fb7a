"""Files of the runs of an unfinished cell: which replies are there, whose, and what a damaged line says."""

from __future__ import annotations

import json

import pytest

from kvrepro.errors import RunError
from kvrepro.runs.parts import Part
from kvrepro.runs.replies import REPLY_FIELDS, OwnFiles, Replies, remove_files

CELL = "m/b/window-90/0123abcd"


def reply(problem, sample, **changes):
    return {**dict.fromkeys(REPLY_FIELDS, 0), "problem_id": problem, "sample_id": sample, "text": "x", **changes}


def written(folder, started, *replies, part=None, cell=CELL):
    """The files of a run that has ended."""
    run = OwnFiles(folder, cell, part, {"started": started, "host": f"node-{started}"})
    for number, row in enumerate(replies, start=1):
        run.append(row, {"stats": {"steps": number}, "ended": f"{started}+{number}", "wall_s": float(number)})
    return run


def file_of(folder):
    (path,) = folder.glob("completions*.jsonl")
    return path


def test_an_empty_folder_has_nothing(tmp_path):
    found = Replies.found(tmp_path, CELL)
    assert (found.places, found.runs, found.twice) == ({}, [], 0)
    assert found.missing([("a", 0)]) == [("a", 0)]


def test_replies_are_read_back_without_what_belongs_to_their_run(tmp_path):
    text = "line\u2028separator \u0085 and \u00fc"
    written(tmp_path, "1", reply("a", 0), reply("a", 1, text=text))
    written(tmp_path, "2", reply("b", 0), part=Part(2, 3))
    found = Replies.found(tmp_path, CELL)
    assert set(found.places) == {("a", 0), ("a", 1), ("b", 0)}
    assert found.read(("a", 1)) == reply("a", 1, text=text)
    assert found.read(("b", 0)) == reply("b", 0)
    assert found.missing([("b", 1), ("a", 0)]) == [("b", 1)]


def test_runs_come_in_the_order_of_their_start_with_their_last_times(tmp_path):
    written(tmp_path, "2", reply("a", 0), part=Part(1, 2))
    written(tmp_path, "1", reply("b", 0), reply("b", 1), part=Part(2, 2)).end({"stats": {"steps": 9}, "wall_s": 9.5})
    written(tmp_path, "0")
    runs = Replies.found(tmp_path, CELL).runs
    # the run without a reply has no times, so it is none
    assert [(run["started"], run["shard"], run["replies"], run["host"]) for run in runs] == [
        ("1", "2/2", 2, "node-1"),
        ("2", "1/2", 1, "node-2"),
    ]
    assert [(run["stats"]["steps"], run["wall_s"], run["ended"]) for run in runs] == [(9, 9.5, "1+2"), (1, 1.0, "2+1")]


def test_of_a_reply_that_two_runs_made_the_first_counts(tmp_path):
    written(tmp_path, "2", reply("a", 0, text="later"), reply("a", 1))
    written(tmp_path, "1", reply("a", 0, text="first"))
    found = Replies.found(tmp_path, CELL)
    assert found.twice == 1
    assert found.read(("a", 0))["text"] == "first"
    assert [run["replies"] for run in found.runs] == [1, 1]


def test_a_line_that_is_still_written_is_left_alone(tmp_path):
    written(tmp_path, "1", reply("a", 0), reply("a", 1))
    path = file_of(tmp_path)
    whole = path.read_bytes()
    for cut in (1, 20, len(whole.splitlines()[-1])):
        path.write_bytes(whole[:-cut])
        assert set(Replies.found(tmp_path, CELL).places) == {("a", 0)}
        assert path.read_bytes() == whole[:-cut]


def changed(**changes):
    return json.dumps({**reply("a", 1), "cell_id": CELL, "session": "s", **changes})


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (json.dumps({"text": "x", "cell_id": CELL}), "lacks session, problem_id, sample_id, status, "),
        (changed()[:40], "not JSON"),
        ("[1]", "list, expected an object"),
        (changed(cell_id="m/b/window-90/ffffffff"), f"a reply of cell m/b/window-90/ffffffff, not of {CELL}"),
        (changed(problem_id=["a"]), "problem_id=.'a'., sample_id=1, expected text and a number"),
        ("\x00" * 30, "not JSON"),
    ],
)
def test_a_damaged_line_is_named_with_what_to_do(tmp_path, line, problem):
    written(tmp_path, "1", reply("a", 0))
    path = file_of(tmp_path)
    with path.open("a") as file:
        file.write(f"{line}\n{changed(sample_id=2)}\n")
    expected = rf"^{path}, line 2: {problem}.*: delete the line or the file; what was in it is then made again$"
    with pytest.raises(RunError, match=expected):
        Replies.found(tmp_path, CELL)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "does not tell of a run"),
        ("[]", "does not tell of a run"),
        ('{"session": "s"}', "does not tell of a run"),
        (json.dumps({"cell_id": "other", "session": "s", "started": "1"}), "is of cell other, not of"),
    ],
)
def test_damaged_facts_of_a_run_are_named_with_what_to_do(tmp_path, content, problem):
    written(tmp_path, "1", reply("a", 0), part=Part(1, 2))
    (path,) = tmp_path.glob("run-1of2-*.json")
    path.write_text(content)
    with pytest.raises(RunError, match=rf"{path} {problem}.*: delete it and {file_of(tmp_path).name}, whose replies"):
        Replies.found(tmp_path, CELL)


def test_a_set_of_replies_is_checked_against_the_cells(tmp_path):
    written(tmp_path, "1", reply("a", 0), reply("z", 5))
    found = Replies.found(tmp_path, CELL)
    found.check([("a", 0), ("z", 5)])
    with pytest.raises(RunError, match=r"1 of 3 replies are missing, first \('b', 0\): run the cell again"):
        found.check([("a", 0), ("b", 0), ("z", 5)])
    with pytest.raises(RunError, match=rf"{file_of(tmp_path)}, line 2: the cell has no reply \('z', 5\): delete"):
        found.check([("a", 0)])


def test_removing_the_files_leaves_the_others(tmp_path):
    written(tmp_path, "1", reply("a", 0))
    (tmp_path / "completions.jsonl").touch()
    (tmp_path / "run.ipynb").touch()
    remove_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.ipynb"]
