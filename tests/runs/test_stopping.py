"""What a signal does to a command and to everything below it, and what children do when their parent is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from kvrepro import cli

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
SIGNALS = ["SIGTERM", "SIGHUP", "SIGINT"]
LIMIT_S = 30

# a command whose child ignores SIGTERM in a session of its own, and has a child in turn
COMMAND = """
import subprocess, sys, types
from kvrepro import cli

STUBBORN = '''
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
print(below.pid, flush=True)
time.sleep(300)
'''

def run(args):
    command = [sys.executable, "-c", STUBBORN]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    print(child.pid, child.stdout.readline().strip(), file=sys.stderr, flush=True)
    child.wait()

module = types.SimpleNamespace(run=run)
cli.parse = lambda argv: types.SimpleNamespace(command="x", json=False, module=module)
sys.exit(cli.main([]))
"""

# a child in a regular expression that keeps the interpreter to itself for hours
BUSY = "import re\nprint('busy', flush=True)\nre.match(r'(a+)+$', 'a' * 60 + 'b')\n"
PARENT = """
import subprocess, sys
from kvrepro.runs.processes import child_command
child = subprocess.Popen(child_command("busy"), stdout=subprocess.PIPE, text=True)
assert child.stdout.readline() == "busy\\n"
print(child.pid, flush=True)
child.wait()
"""


def gone(pids):
    deadline = time.monotonic() + LIMIT_S
    while left := [p for p in pids if psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE]:
        if time.monotonic() > deadline:
            return left
        time.sleep(0.05)
    return []


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_ends_everything_below_and_is_the_exit_code(name):
    process = subprocess.Popen([sys.executable, "-c", COMMAND], stderr=subprocess.PIPE, text=True)
    pids = [int(text) for text in process.stderr.readline().split()]
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 128 + getattr(signal, name)
    assert "kvrepro x: stopped; what was finished is kept" in err and "Traceback" not in err
    assert len(pids) == 2 and gone(pids) == []


AFTERWARDS = """
import sys, types
from kvrepro import cli
from kvrepro.runs.processes import afterwards, descendants

def run(args):
    say = lambda word: print(word, len(descendants()), file=sys.stderr, flush=True)
    with afterwards(lambda: say("folder")), afterwards(lambda: say("jobs")):
        {end}

module = types.SimpleNamespace(run=run)
cli.parse = lambda argv: types.SimpleNamespace(command="x", json=False, module=module)
sys.exit(cli.main([]))
"""
WITH_A_CHILD = """
        import subprocess
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
        print("started", file=sys.stderr, flush=True)
        child.wait()
"""


@pytest.mark.parametrize("end", ["return {}", "raise OSError('no disk')"])
def test_what_is_left_is_done_the_last_one_first_however_a_command_ends(end):
    command = [sys.executable, "-c", AFTERWARDS.format(end=end)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.stderr.splitlines()[:2] == ["jobs 0", "folder 0"]


def test_what_is_left_is_done_once_nothing_runs_below():
    command = [sys.executable, "-c", AFTERWARDS.format(end=WITH_A_CHILD)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == "started\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=LIMIT_S)
    assert err.splitlines()[:2] == ["jobs 0", "folder 0"]
    assert process.returncode == 128 + signal.SIGTERM


def test_a_hang_up_that_nohup_ignores_stays_ignored():
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + COMMAND
    process = subprocess.Popen([sys.executable, "-c", ignoring], stderr=subprocess.PIPE, text=True)
    process.stderr.readline()
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 128 + signal.SIGTERM


def test_handlers_are_as_before_after_a_command(capsys):
    before = [signal.getsignal(getattr(signal, name)) for name in SIGNALS]
    assert cli.main(["list", "profiles", "--json"]) == 0
    assert [signal.getsignal(getattr(signal, name)) for name in SIGNALS] == before


@pytest.mark.skipif(sys.platform != "linux", reason="at once and whatever it computes: Linux only")
def test_a_child_ends_with_a_parent_that_was_killed_whatever_it_computes(tmp_path):
    (tmp_path / "busy.py").write_text(BUSY)
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    assert gone([child]) == []


def test_a_child_whose_parent_is_gone_already_does_not_start(tmp_path):
    (tmp_path / "touch.py").write_text("open('started', 'w')\n")
    # the process that started it is not the one that is named
    command = [sys.executable, "-m", "kvrepro.runs.processes", "1" if os.getpid() != 1 else "2", "touch"]
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, check=False)
    assert done.returncode == 1
    assert not (tmp_path / "started").exists()


def test_a_child_runs_its_module_with_its_arguments(tmp_path):
    command = [sys.executable, "-m", "kvrepro.runs.processes", str(os.getpid()), "json.tool", "--compact"]
    done = subprocess.run(command, input='{"a": 1}', capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '{"a":1}'
