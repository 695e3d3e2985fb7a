"""Result files: whole or absent, and read back strictly."""

from __future__ import annotations

import errno
import json
import re

import pytest

from kvrepro import files
from kvrepro.errors import KvreproError, RunError
from kvrepro.files import append_row, read_rows, write_atomic, write_rows
from kvrepro.paths import results_root
from kvrepro.runs.config import CellConfig
from kvrepro.runs.folder import MANIFEST, RECORD_FIELDS, RECORDS, CellFolder, read_manifest, read_records

ROWS = [{"a": 1, "text": "line\nbreak"}, {"a": 2, "text": "</think>\u2028\u00e4"}, {"a": 3, "text": ""}]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "rows.jsonl"


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def write_cell(folder, n_records=3, fields=RECORD_FIELDS):
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / RECORDS, [dict.fromkeys(fields, i) for i in range(n_records)])
    write_atomic(folder / MANIFEST, json.dumps({"n_records": 3}))
    return folder


def test_rows_survive_a_round_trip_whatever_their_text(file):
    write_rows(file, ROWS)
    assert list(read_rows(file)) == ROWS
    assert file.read_bytes().count(b"\n") == 3


def test_appended_rows_equal_rows_written_at_once(file, tmp_path):
    for row in ROWS:
        append_row(file, row)
    write_rows(tmp_path / "whole.jsonl", ROWS)
    assert file.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_an_appended_row_is_on_file_before_the_next_one(file):
    append_row(file, ROWS[0])
    assert list(read_rows(file)) == ROWS[:1]


def test_an_empty_file_has_no_rows(file):
    write_rows(file, [])
    assert list(read_rows(file)) == []


def test_a_tail_cut_anywhere_is_dropped_or_refused(file):
    write_rows(file, ROWS)
    whole = file.read_bytes()
    start = whole.rstrip(b"\n").rindex(b"\n") + 1
    for cut in range(start + 1, len(whole) - 1):
        file.write_bytes(whole[:cut])
        assert list(read_rows(file, drop_cut_tail=True)) == ROWS[:2], cut
        with pytest.raises(RunError, match="line 3: not JSON"):
            list(read_rows(file))


def test_a_last_line_without_its_line_end_is_whole_but_suspicious(file):
    write_rows(file, ROWS)
    file.write_bytes(file.read_bytes()[:-1])
    assert list(read_rows(file, drop_cut_tail=True)) == ROWS
    with pytest.raises(RunError, match="ends in the middle of a line"):
        list(read_rows(file))


@pytest.mark.parametrize("drop_cut_tail", [False, True])
def test_a_broken_line_in_the_middle_names_file_and_line(file, drop_cut_tail):
    write_rows(file, ROWS)
    lines = file.read_text().split("\n")
    file.write_text("\n".join([lines[0], lines[1][:7], *lines[2:]]))
    with pytest.raises(RunError, match=re.escape(str(file)) + ", line 2"):
        list(read_rows(file, drop_cut_tail=drop_cut_tail))


@pytest.mark.parametrize("line", [b"3\n", b"[1]\n", b"null\n"])
def test_a_line_that_is_no_object_names_file_and_line(file, line):
    file.write_bytes(b'{"a": 1}\n' + line)
    with pytest.raises(RunError, match="line 2"):
        list(read_rows(file))


def test_bytes_that_are_no_text_are_an_error_of_ours(file):
    file.write_bytes(b'{"a": 1}\n\xff\xfe\x00\n{"a": 2}\n')
    with pytest.raises(RunError, match=re.escape(str(file))):
        list(read_rows(file))


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("existing", [None, "before"])
def test_a_full_disk_leaves_the_old_file_whole_and_nothing_beside_it(tmp_path, monkeypatch, step, existing):
    path = tmp_path / "summary.csv"
    if existing is not None:
        path.write_text(existing)
    monkeypatch.setattr(files.os, step, no_space)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, "after")
    assert [p.name for p in tmp_path.iterdir()] == ([] if existing is None else ["summary.csv"])
    if existing is not None:
        assert path.read_text() == existing


def test_cell_folder_lies_below_profile_and_cell_id():
    config = CellConfig("tiny-r1-llama", "chain-12")
    folder = CellFolder.of("smoke", config)
    assert folder.path == results_root() / "smoke" / config.cell_id
    assert folder.partial.parent == folder.path.parent
    assert folder.partial != folder.path


def test_records_are_read_back_when_they_fit_the_manifest(tmp_path):
    assert len(read_records(write_cell(tmp_path))) == 3


def test_missing_rows_are_refused_with_both_counts(tmp_path):
    with pytest.raises(RunError, match="has 2 rows, its manifest says 3"):
        read_records(write_cell(tmp_path, n_records=2))


def test_a_missing_field_is_refused_with_line_and_name(tmp_path):
    write_cell(tmp_path, fields=[f for f in RECORD_FIELDS if f not in ("gold", "correct")])
    with pytest.raises(KvreproError, match=r"line 1: lacks \['gold', 'correct'\]"):
        read_records(tmp_path)


def test_records_never_forgive_a_cut_tail(tmp_path):
    write_cell(tmp_path)
    path = tmp_path / RECORDS
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RunError, match="line 3: not JSON"):
        read_records(tmp_path)


def test_a_missing_manifest_says_that_the_cell_is_unfinished(tmp_path):
    with pytest.raises(RunError, match="no finished cell"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"n_records": ', b"[]", b"\xff\xfe"])
def test_a_broken_manifest_is_named(tmp_path, content):
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(RunError, match=r"manifest\.json"):
        read_manifest(tmp_path)
