"""Systems without the modules of Unix can use the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest


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
