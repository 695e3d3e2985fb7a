"""Claims end with their process, name it, can be waited for and looked at, whatever their file system lacks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from kvrepro import claims, holders
from kvrepro.claims import held, holder, is_held
from kvrepro.errors import KvreproError, RunError

HOLD = """
import sys, pathlib
from kvrepro import claims, holders
claims.LEASE_S, claims.BEAT_S = 0.8, 0.1
if sys.argv[2:]:
    holders.place = lambda: sys.argv[2]
try:
    with claims.held(pathlib.Path(sys.argv[1]), "x"):
        print("held", flush=True)
        sys.stdin.read()
except Exception as error:
    print(type(error).__name__, error, flush=True)
"""
COUNT = """
import sys, pathlib
from kvrepro.claims import held
path, total = map(pathlib.Path, sys.argv[1:])
for _ in range(25):
    with held(path, "x", wait=True):
        before = int(total.read_text())
        total.write_text(f"{before + 1}")
"""
LOOK = """
import sys, pathlib
from kvrepro.claims import is_held
path = pathlib.Path(sys.argv[1])
print("looking", flush=True)
while True:
    is_held(path)
"""


@pytest.fixture
def process(path, request):
    """A process that holds `path`, until its input is closed; on another machine where one is given."""
    path.parent.mkdir()
    command = [sys.executable, "-c", HOLD, str(path), *getattr(request, "param", ())]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, **pipes) as running:
        assert running.stdout.readline() == "held\n"
        yield running
        running.kill()


on_another_machine = pytest.mark.parametrize("process", [("elsewhere",)], indirect=True)


def write_claim(path, silent_s=0.0, **changes):
    """The file of a claim of a process elsewhere."""
    path.parent.mkdir(exist_ok=True)
    found = claims.Holder(12, "node3", "7", "2026-01-01T00:00:00+00:00", "node3 boot pids", "token")
    path.write_text(json.dumps(asdict(replace(found, **changes))))
    os.utime(path, (time.time() - silent_s,) * 2)


def test_a_claim_is_gone_after_its_block(path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    n_threads = threading.active_count()
    with held(path, "x"):
        found = holder(path)
        assert (found.pid, found.host, found.job) == (os.getpid(), os.uname().nodename, "9")
        assert str(found) == f"pid {os.getpid()} on {os.uname().nodename}, SLURM job 9"
        assert found.is_this_process
    assert list(path.parent.iterdir()) == []
    assert holder(path) is None
    # a beat after that could find the claim of another process
    assert threading.active_count() == n_threads


def test_a_claim_is_gone_after_a_block_that_fails(path):
    with pytest.raises(ZeroDivisionError), held(path, "x"):
        raise ZeroDivisionError
    assert list(path.parent.iterdir()) == []


def test_a_claim_that_is_held_names_its_holder(process, path):
    assert holder(path).pid == process.pid
    with pytest.raises(KvreproError, match=f"cell x is being run by another process, pid {process.pid} on "):  # noqa: SIM117
        with held(path, "cell x"):
            pass
    # the one that was refused has taken nothing away
    assert holder(path).pid == process.pid
    process.communicate()
    assert not is_held(path)


def test_a_claim_that_is_waited_for_is_taken_when_it_is_given_back(process, path, monkeypatch, capsys):
    monkeypatch.setattr(claims, "PATIENCE_S", 0.0)
    told = threading.Event()
    monkeypatch.setattr(claims, "print", lambda *words, **to: print(*words, **to) or told.set(), raising=False)
    threading.Thread(target=lambda: told.wait() and process.stdin.close(), daemon=True).start()
    with held(path, "cell x", wait=True):
        assert holder(path).is_this_process
    line = f"cell x waits for another process, pid {process.pid} on {os.uname().nodename}\n"
    assert capsys.readouterr().err == line


def test_a_holder_that_was_killed_is_gone_at_once(process, path):
    process.kill()
    # not waited for, so there is still an entry of it in the table of processes
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert claims._Marker.at(path).holder.pid == process.pid
    assert not is_held(path)
    with held(path, "x"):
        assert holder(path).is_this_process


@on_another_machine
def test_a_holder_elsewhere_that_was_stopped_for_a_lease_ends_itself_and_takes_nothing_away(process, path, short_lease):
    process.send_signal(signal.SIGSTOP)
    with held(path, "x", wait=True):
        process.send_signal(signal.SIGCONT)
        # its input is open: nothing but itself ends it
        assert process.wait() == -signal.SIGTERM
        (line,) = process.stderr.read().splitlines()
        assert line.startswith(f"x: pid {os.getpid()} on ") and "took over from this one" in line
        assert holder(path).is_this_process
    assert not path.exists()


def test_a_holder_here_that_was_stopped_keeps_its_claim_however_silent(process, path, short_lease):
    process.send_signal(signal.SIGSTOP)
    os.utime(path, (time.time() - 3600,) * 2)
    assert holder(path).pid == process.pid
    ended = threading.Timer(2 * claims.LEASE_S, lambda: process.send_signal(signal.SIGCONT) or process.stdin.close())
    ended.start()
    with held(path, "x", wait=True):
        assert ended.finished.is_set()
    # it was not told that anybody took over
    assert (process.stdout.read(), process.stderr.read()) == ("", "")


@on_another_machine
def test_a_claim_whose_file_is_gone_is_made_again(process, path):
    before = path.read_bytes()
    path.unlink()
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.01)
    assert path.read_bytes() == before
    process.stdin.close()
    assert process.stdout.read() == ""
    assert list(path.parent.iterdir()) == []


def test_a_holder_that_lives_is_waited_for_longer_than_a_lease(process, path, short_lease):
    def give_back():
        time.sleep(2 * claims.LEASE_S)
        process.stdin.close()

    threading.Thread(target=give_back).start()
    with held(path, "x", wait=True):
        # it ended by itself, having lost nothing
        assert process.stdout.read() == ""


def test_a_claim_elsewhere_holds_while_it_beats_and_a_lease_longer(path, short_lease):
    write_claim(path)
    assert str(holder(path)) == "pid 12 on node3, SLURM job 7"
    with pytest.raises(KvreproError, match="another process, pid 12 on node3, SLURM job 7: wait for it or stop it"):  # noqa: SIM117
        with held(path, "x"):
            pass
    with held(path, "x", wait=True):
        assert holder(path).is_this_process


def test_a_claim_elsewhere_that_has_been_silent_is_watched_and_then_taken(path, short_lease, capsys):
    write_claim(path, silent_s=3600)
    assert holder(path) is None
    with held(path, "x"):
        assert holder(path).is_this_process
    assert capsys.readouterr().err == "x waits for another process, pid 12 on node3, SLURM job 7\n"


def test_claims_that_are_waited_for_together_are_watched_together(path, monkeypatch, capsys):
    monkeypatch.setattr(claims, "LEASE_S", 0.3)
    paths = [path.with_name(f"lock{n}") for n in range(4)]
    for each in paths:
        write_claim(each, silent_s=3600)
    clock = [0.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(claims.time, "sleep", lambda seconds: clock.append(clock.pop() + seconds))
    claims.wait_until_free([*paths, path.with_name("none")], "cell x")
    # one after the other would take four leases
    assert clock[0] < 3 * claims.LEASE_S
    assert list(path.parent.iterdir()) == []
    said = [f"cell x waits for pid 12 on node3, SLURM job 7, which holds lock{n}" for n in range(4)]
    assert capsys.readouterr().err.splitlines() == said


def test_a_pid_that_is_another_process_now_holds_nothing(path):
    here = {"pid": os.getppid(), "place": holders.place()}
    write_claim(path, **here, born=holders._start(os.getppid()))
    assert is_held(path)
    write_claim(path, **here, born=holders._start(os.getppid()) - 1)
    assert not is_held(path)
    # of a version that did not write it; one that cannot be looked for is watched for a lease
    write_claim(path, **here)
    assert is_held(path)
    write_claim(path, silent_s=claims.LEASE_S + 1, **here)
    assert not is_held(path)


def test_a_process_that_is_hidden_from_this_user_is_not_taken_for_dead(path, monkeypatch):
    write_claim(path, pid=os.getppid(), place=holders.place(), born=holders._start(os.getppid()))
    monkeypatch.setattr(holders, "Path", lambda name: path.with_name("no proc"))
    assert claims._Marker.at(path).holder.lives is None
    assert is_held(path)


def test_a_pid_of_another_container_is_not_looked_for_here(path):
    # of a process that does not exist here; the name of the host is the same
    write_claim(path, pid=2**22 + 1, place=f"{holders.place()}, other pids")
    assert is_held(path)
    write_claim(path, pid=2**22 + 1, place=holders.place())
    assert not is_held(path)


def test_one_of_many_holds_it_at_a_time(tmp_path):
    path, total = tmp_path / "lock", tmp_path / "total"
    total.write_text("0")
    # what a killed process left behind, so they begin by taking it over
    write_claim(path, pid=2**22 + 1, place=holders.place())
    command = [sys.executable, "-c", COUNT, str(path), str(total)]
    running = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert total.read_text() == "100"
    assert list(tmp_path.iterdir()) == [total]


def test_a_fork_that_leaves_the_block_gives_nothing_back(path):
    child = None
    try:
        with held(path, "x"):
            child = os.fork()
            if child:
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                assert holder(path).is_this_process
    finally:
        if child == 0:
            os._exit(0)


def test_who_lost_the_claim_is_told_as_the_block_ends(path):
    with pytest.raises(RunError, match="x: pid 12 on node3, SLURM job 7 took over"), held(path, "x"):  # noqa: PT012
        path.unlink()
        write_claim(path)
    assert json.loads(path.read_text())["pid"] == 12


def test_looking_does_not_make_a_run_fail(tmp_path):
    path = tmp_path / "lock"
    looker = subprocess.Popen([sys.executable, "-c", LOOK, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert looker.stdout.readline() == "looking\n"
        for _ in range(300):
            with held(path, "x"):
                pass
        assert looker.poll() is None
    finally:
        looker.kill()
        looker.communicate()
