"""Locks die with their process, name it, and may be looked at; systems without `fcntl` can use the command line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kvrepro.errors import KvreproError
from kvrepro.files import held, holder, is_held

LOOK = """
import sys, pathlib
from kvrepro.files import is_held
path = pathlib.Path(sys.argv[1])
print("looking", flush=True)
while True:
    is_held(path)
"""


def test_a_lock_is_gone_after_its_block(tmp_path):
    path = tmp_path / "new" / "lock"
    with held(path, "x"):
        assert path.is_file()
    assert list(path.parent.iterdir()) == []
    assert not is_held(path)


def test_a_lock_that_was_left_behind_holds_nothing(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    path.with_name("lock.pid").write_text("1 on elsewhere")
    assert not is_held(path)
    with held(path, "x"):
        assert holder(path).pid == os.getpid()


def test_a_lock_that_is_held_names_its_holder(tmp_path):
    program = (
        "import sys, pathlib\nfrom kvrepro.files import held\n"
        "with held(pathlib.Path(sys.argv[1]), 'x'):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    path = tmp_path / "lock"
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert is_held(path)
        with pytest.raises(KvreproError, match=f"cell x is being run by another process, pid {holder.pid} on "):  # noqa: SIM117
            with held(path, "cell x"):
                pass
        # the one that was refused has not taken the name away
        assert is_held(path)
        holder.stdin.close()
    assert not is_held(path)


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


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "methods"],
        ["run", "--set", "model=tiny-r1-llama", "--set", "benchmark=chain-12", "--set", "method=full", "--dry-run"],
        ["status", "smoke"],
        ["plan", "--help"],
    ],
    ids=lambda a: a[0],
)
def test_the_command_line_starts_where_unix_modules_are_missing(arguments):
    # as on Windows; a module that is None cannot be imported. No process is started, so nothing of ours needs them;
    # what others import on this system is there already
    program = (
        "import sys\nimport subprocess, psutil\nfor name in ('fcntl', 'resource'):\n"
        "    sys.modules[name] = None\n"
        "import signal\ndel signal.SIGHUP\n"
        "from kvrepro.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
