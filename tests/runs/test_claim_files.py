"""The file of a claim: whole or not there, whatever clocks, file systems and processes killed meanwhile do to it."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path

import pytest

from kvrepro import claims, holders
from kvrepro.claims import held, holder, is_held
from kvrepro.errors import KvreproError

from .test_claims import write_claim


@pytest.mark.parametrize("content", ["", "{", '{"pid": 12, "host": "node', "[1]", "filelock/2\n"])
def test_a_file_that_was_cut_or_is_of_an_older_version_holds_nothing(path, short_lease, content):
    path.parent.mkdir()
    path.write_text(content)
    path.with_name("lock.pid").write_text("1 on elsewhere")
    assert not is_held(path)
    with held(path, "x"):
        assert holder(path).is_this_process
    assert not path.exists()


def test_a_claim_is_not_called_dead_for_this_hosts_clock(path, monkeypatch):
    write_claim(path)
    now = time.time()
    for ahead in (600, -600):
        monkeypatch.setattr(claims.time, "time", lambda ahead=ahead: now + ahead)
        assert is_held(path)
    # nor alive: of a host whose clock is behind the last sign of life is still to come
    for silent_s in (120, 3600):
        os.utime(path, (now - silent_s,) * 2)
        assert not is_held(path)
    assert list(path.parent.iterdir()) == [path]


def test_a_claim_in_a_folder_that_is_read_only_is_judged_by_this_hosts_clock(path, monkeypatch):
    def refused(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(claims.tempfile, "TemporaryFile", refused)
    write_claim(path)
    assert is_held(path)
    os.utime(path, (time.time() - 600,) * 2)
    assert not is_held(path)


def test_fields_that_a_later_version_writes_are_left_out(path):
    write_claim(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "later": 1}))
    assert holder(path).pid == 12


def test_a_file_server_whose_clock_is_behind_takes_no_claim_away(path, short_lease):
    write_claim(path, silent_s=3600)
    done = threading.Event()

    def beat():
        for n in range(10**6):
            if done.wait(0.05):
                return
            os.utime(path, (time.time() - 3600 + n,) * 2)

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(KvreproError, match="another process, pid 12 on node3"):  # noqa: SIM117
            with held(path, "x"):
                pass
    finally:
        done.set()
        beating.join()
    assert json.loads(path.read_text())["pid"] == 12


def test_a_claim_that_came_meanwhile_is_put_back(path):
    write_claim(path)
    judged = claims._Marker.at(path)
    write_claim(path, token="newer")
    claims._clear(path, judged)
    assert json.loads(path.read_text())["token"] == "newer"
    assert list(path.parent.iterdir()) == [path]
    claims._clear(path, claims._Marker.at(path))
    assert list(path.parent.iterdir()) == []


def test_a_full_disk_leaves_no_claim_behind(path, monkeypatch):
    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(claims.json, "dumps", no_space)
    with pytest.raises(OSError, match="No space left"), held(path, "x"):
        pass
    assert list(path.parent.iterdir()) == []


def test_a_file_system_without_links_has_claims_too(path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(claims.os, "link", refused)
    write_claim(path, pid=2**22 + 1, place=holders.place())
    with held(path, "x"):
        found = claims._Marker.at(path)
        assert found.holder.is_this_process
        assert not claims._create(path, holders.Holder.here())
        # judged dead before it was made: it goes back
        claims._clear(path, claims._Marker(b"", 0))
        assert claims._Marker.at(path).content == found.content
    assert list(path.parent.iterdir()) == []


def test_what_killed_processes_left_beside_a_claim_is_swept(path, short_lease):
    path.parent.mkdir()
    left, other = path.with_name(f"lock.{'a' * 32}"), path.with_name("lock.partial")
    for file in (left, other):
        file.touch()
    with held(path, "x"):
        # another process may be about to put it back
        assert left.exists()
    time.sleep(claims.LEASE_S)
    with held(path, "x"):
        assert sorted(path.parent.iterdir()) == [path, other]


def test_what_ends_a_block_is_told_though_the_claim_cannot_be_given_back(path, monkeypatch, capsys):
    def refused(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(ZeroDivisionError), held(path, "x"):  # noqa: PT012
        monkeypatch.setattr(Path, "unlink", refused)
        raise ZeroDivisionError
    assert capsys.readouterr().err == f"{path} cannot be given back (Input/output error): remove it\n"


def test_a_file_that_is_stale_is_none(path, monkeypatch):
    def stale(*_):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "open", stale)
    assert holder(path) is None


def test_a_file_system_without_exclusive_files_is_an_error_and_no_claim(path, monkeypatch):
    def refused(*_, **__):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(OSError, match="not supported"), held(path, "x"):
        pytest.fail("held")
