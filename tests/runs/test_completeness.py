"""A cell counts as done only where all of it lies there and is its own; damage is noticed and never deleted."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from kvrepro.claims import Holder, held
from kvrepro.errors import RunError
from kvrepro.files import replacing
from kvrepro.runs import folder as results
from kvrepro.runs.folder import FILES, MANIFEST, NOTEBOOK, RECORDS, CellFolder, configs_beside

LINES = [b'{"problem_id": "a"}\n', b'{"problem_id": "b"}\n', b'{"problem_id": "c"}\n']


@pytest.fixture
def cell(tmp_path):
    return CellFolder(tmp_path / "model" / "benchmark" / "full" / "01234567", tmp_path)


def write(path, cell_id, lines=LINES, **changes):
    """Files of a finished run; a changed value of None is left out of the manifest."""
    path.mkdir(parents=True)
    content = b"".join(lines)
    manifest = {"cell_id": cell_id, "n_records": 3, "records_sha256": hashlib.sha256(content).hexdigest(), **changes}
    (path / RECORDS).write_bytes(content)
    (path / NOTEBOOK).write_text("{}")
    (path / MANIFEST).write_text(json.dumps({name: v for name, v in manifest.items() if v is not None}))


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def aside(cell):
    return sorted(path.name for path in cell.path.parent.glob(".*damaged*"))


def test_whole_results_of_this_version_and_of_older_ones_are_complete(cell):
    assert (cell.is_complete, cell.damage, cell.state) == (False, None, "left")
    write(cell.path, cell.cell_id)
    assert (cell.is_complete, cell.damage, cell.state) == (True, None, "done")
    (cell.path / MANIFEST).write_text(json.dumps({"cell_id": cell.cell_id, "n_records": 3}))
    assert (cell.is_complete, cell.damage) == (True, None)


def test_a_folder_outside_a_profile_may_hold_any_cell(tmp_path):
    write(tmp_path / "x", "model/benchmark/full/01234567")
    assert CellFolder(tmp_path / "x", tmp_path / "x").is_complete
    assert CellFolder(tmp_path / "x", tmp_path).damage == "manifest.json is of cell model/benchmark/full/01234567"


DAMAGES = {
    "a notebook is missing": (lambda path: (path / NOTEBOOK).unlink(), "run.ipynb missing"),
    "records are missing": (lambda path: (path / RECORDS).unlink(), "records.jsonl missing"),
    "a manifest is missing": (lambda path: (path / MANIFEST).unlink(), "manifest.json missing"),
    "a manifest is cut": (lambda path: os.truncate(path / MANIFEST, 30), "manifest.json cannot be read"),
    "a manifest is empty": (lambda path: os.truncate(path / MANIFEST, 0), "manifest.json cannot be read"),
    "a row is lost": (
        lambda path: (path / RECORDS).write_bytes(b"".join(LINES[:2])),
        "records.jsonl has 2 rows, manifest.json says 3",
    ),
    "a row is cut": (lambda path: os.truncate(path / RECORDS, len(LINES[0]) * 3 - 4), "has 2 rows"),
    "a row is twice there": (lambda path: (path / RECORDS).write_bytes(b"".join([*LINES, LINES[0]])), "has 4 rows"),
    "records are of another cell": (lambda path: (path / RECORDS).write_bytes(LINES[0] * 3), "SHA-256 differs"),
    "a manifest is of another cell": (
        lambda path: (path / MANIFEST).write_text(json.dumps({"cell_id": "another/one", "n_records": 3})),
        "manifest.json is of cell another/one",
    ),
    "a manifest names no cell": (lambda path: (path / MANIFEST).write_text('{"n_records": 3}'), "is of cell None"),
}


@pytest.mark.parametrize(("do", "said"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_noticed_said_in_one_line_and_set_aside(cell, do, said, capsys):
    write(cell.path, cell.cell_id)
    assert cell.is_complete
    do(cell.path)
    assert not cell.is_complete
    assert said in cell.damage and "\n" not in cell.damage
    assert cell.state == "left"
    before = contents(cell.path)
    write(cell.partial, cell.cell_id)
    cell.publish()
    assert cell.is_complete
    assert aside(cell) == [".01234567.damaged-1"]
    assert contents(cell.path.with_name(".01234567.damaged-1")) == before
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and line.endswith(".01234567.damaged-1")


def test_what_was_set_aside_stays_when_more_is(cell):
    for n in (1, 2):
        write(cell.partial, cell.cell_id)
        cell.publish()
        (cell.path / NOTEBOOK).write_text(f"{n}")
        (cell.path / RECORDS).unlink()
    write(cell.partial, cell.cell_id)
    cell.publish()
    assert aside(cell) == [".01234567.damaged-1", ".01234567.damaged-2"]
    assert [(cell.path.parent / name / NOTEBOOK).read_text() for name in aside(cell)] == ["1", "2"]


def test_damaged_results_are_no_neighbours(cell):
    write(cell.path, cell.cell_id, config={"model": "whole"})
    for name in (".01234567.damaged-1", ".76543210.partial"):
        write(cell.path.with_name(name), cell.cell_id, config={"model": "other"})
    assert configs_beside(cell.path) == [{"model": "whole"}]


def test_files_are_read_again_only_where_they_have_changed(cell, monkeypatch):
    write(cell.path, cell.cell_id)
    read = []
    monkeypatch.setattr(results, "read_manifest", lambda path, o=results.read_manifest: read.append(path) or o(path))
    assert [cell.is_complete for _ in range(3)] == [True] * 3
    assert len(read) == 1
    (cell.path / RECORDS).write_bytes(b"".join(LINES[:2]))
    assert [cell.is_complete for _ in range(3)] == [False] * 3
    assert len(read) == 2


def test_publish_moves_everything_and_removes_the_working_folder(cell):
    write(cell.partial, cell.cell_id)
    (cell.partial / "lock").write_text("")
    (cell.partial / ".ipynb_checkpoints").mkdir()
    made = {name: (cell.partial / name).read_bytes() for name in FILES}
    cell.publish()
    assert cell.is_complete
    assert not cell.partial.exists()
    assert contents(cell.path) == made


def test_a_run_that_lacks_a_file_is_not_published(cell):
    write(cell.path, cell.cell_id, n_records=4)
    before = contents(cell.path)
    write(cell.partial, cell.cell_id)
    (cell.partial / NOTEBOOK).unlink()
    with pytest.raises(RunError, match=r"run\.ipynb missing"):
        cell.publish()
    assert contents(cell.path) == before and aside(cell) == []


def test_a_crash_as_it_is_published_leaves_old_and_new_results_whole(cell, monkeypatch):
    write(cell.path, cell.cell_id, n_records=4)
    write(cell.partial, cell.cell_id)
    old, new = contents(cell.path), contents(cell.partial)
    renamed = []

    def rename(path, target, original=Path.rename):
        if renamed:
            raise KeyboardInterrupt
        renamed.append(target)
        original(path, target)

    monkeypatch.setattr(results.Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        cell.publish()
    monkeypatch.undo()
    assert not cell.is_complete
    assert contents(renamed[0]) == old and contents(cell.partial) == new
    cell.publish()
    assert cell.is_complete and contents(renamed[0]) == old


def test_what_another_process_finished_meanwhile_stays(cell):
    write(cell.path, cell.cell_id)
    (cell.path / NOTEBOOK).write_text("theirs")
    write(cell.partial, cell.cell_id)
    with pytest.raises(RunError, match="was finished by another process meanwhile; what this one made is in .*partial"):
        cell.publish()
    assert (cell.path / NOTEBOOK).read_text() == "theirs"
    assert (cell.partial / NOTEBOOK).read_text() == "{}"


def test_what_is_finished_between_the_look_and_the_step_stays(cell, monkeypatch):
    write(cell.partial, cell.cell_id)
    monkeypatch.setattr(
        CellFolder, "_set_aside", lambda folder, damage: write(folder.path, folder.cell_id, n_records=4)
    )
    with pytest.raises(RunError, match="was finished by another process meanwhile"):
        cell.publish()
    assert json.loads((cell.path / MANIFEST).read_text())["n_records"] == 4
    assert set(contents(cell.partial)) == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_results_that_cannot_be_read_are_said_and_never_set_aside(cell, monkeypatch, name):
    write(cell.path, cell.cell_id)
    write(cell.partial, cell.cell_id)
    before, refused = contents(cell.path), cell.path / name

    def open_file(path, *args, original=Path.open, **named):
        if path == refused:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, *args, **named)

    def stat(path, original=Path.stat, **named):
        # nobody reads the notebook: a folder that may not be looked into
        if path.parent == cell.path and name == NOTEBOOK:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_file)
        patch.setattr(Path, "stat", stat)
        assert cell.damage == f"{name} cannot be read (Permission denied); is it yours?"
        assert (cell.is_complete, cell.state) == (False, "left")
        with pytest.raises(RunError, match="may be whole and cannot be read .*what this one made is in .*partial"):
            cell.publish()
        assert configs_beside(cell.path) == []
    assert contents(cell.path) == before and set(contents(cell.partial)) == set(FILES) and aside(cell) == []
    # nothing of it is remembered
    assert cell.is_complete


def test_records_are_checked_whole_however_long(cell):
    lines = [b'{"text": "%s"}\n' % (b"x" * 700_000) for _ in range(3)]
    write(cell.path, cell.cell_id, lines)
    assert cell.is_complete
    with (cell.path / RECORDS).open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"y")
    assert "SHA-256 differs" in cell.damage


def test_two_processes_with_one_pid_write_files_of_their_own(tmp_path):
    path = tmp_path / "x"
    with replacing(path) as one, replacing(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_who_lost_the_claim_publishes_nothing(cell):
    write(cell.partial, cell.cell_id)
    other = Holder(1, "elsewhere", "7", "2026-01-01T00:00:00+00:00", "elsewhere 0", "x")
    cell.lock.write_text(json.dumps(vars(other)))
    with pytest.raises(RunError, match="pid 1 on elsewhere, SLURM job 7 took over from this process"):
        cell.publish()
    assert not cell.path.exists() and set(contents(cell.partial)) == set(FILES)
    cell.lock.unlink()
    with held(cell.lock, "x"):
        cell.publish()
    assert cell.is_complete
