"""Notebooks run in this interpreter, whatever kernels are known on the machine; one that fails is one message."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from kvrepro import paths
from kvrepro.errors import KvreproError, RunError
from kvrepro.paths import private_folder
from kvrepro.runs import kernel
from kvrepro.runs.notebooks import execute_notebook

LIMIT_S = 60
WHO = "import sys\nopen(target, 'w').write(sys.executable)"
on_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals, and kernels use ports there")


@pytest.fixture(autouse=True)
def _folders_in_tmp(monkeypatch):
    """Sockets lie in a folder of the test's own, with a short path, and are gone afterwards."""
    with tempfile.TemporaryDirectory(dir="/tmp" if os.name == "posix" else None) as folder:
        monkeypatch.setattr(paths, "HOST_FOLDERS", (folder,))
        yield
        assert [path.name for path in Path(folder).glob("kvrepro-*/kernels/*")] in ([], ["looking"])


def write(path, code):
    """A notebook with a parameter `target` and one cell of code."""
    found = nbformat.v4.new_notebook()
    found.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cell = nbformat.v4.new_code_cell("target: str = ''  # a file", metadata={"tags": ["parameters"]})
    found.cells = [cell, nbformat.v4.new_code_cell(code)]
    nbformat.write(found, path)
    return path


@pytest.fixture
def notebook(tmp_path):
    """A notebook that writes down who runs it."""
    return write(tmp_path / "who.ipynb", WHO)


def execute(notebook):
    """Run it; what it wrote."""
    target = notebook.with_name("who")
    execute_notebook(notebook, notebook.with_name("run.ipynb"), {"target": str(target)})
    return target.read_text()


@pytest.mark.parametrize("place", ["JUPYTER_PATH", "HOME", "JUPYTER_DATA_DIR"])
def test_a_kernel_of_the_same_name_elsewhere_is_not_taken(notebook, tmp_path, monkeypatch, place):
    planted = tmp_path / "planted"
    monkeypatch.setenv(place, str(planted))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    share = planted / ".local" / "share" / "jupyter" if place == "HOME" else planted
    folder = share / "kernels" / "python3"
    folder.mkdir(parents=True)
    argv = [sys.executable, "-c", "raise SystemExit('the wrong kernel')"]
    (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "x", "language": "python"}))
    assert execute(notebook) == sys.executable


@on_posix
def test_a_kernel_takes_no_ports_and_its_sockets_fit_wherever_temporary_files_lie(tmp_path, monkeypatch, capfd):
    code = "from ipykernel.connect import get_connection_info\nopen(target, 'w').write(get_connection_info())"
    notebook = write(tmp_path / "where.ipynb", code)
    found = json.loads(execute(notebook))
    (short,) = paths.HOST_FOLDERS
    assert found["transport"] == "ipc" and found["ip"].startswith(f"{short}/")
    # no connection file with the kernel's key in the user's home either
    assert not Path(found["ip"]).parent.exists()
    far = tmp_path / ("far" * 40)
    far.mkdir()
    monkeypatch.setattr(paths, "HOST_FOLDERS", (str(far), short))
    assert len(json.loads(execute(notebook))["ip"]) < 100
    assert "eavesdropping" not in capfd.readouterr().err


def failing(program):
    return lambda: [sys.executable, "-c", program, "{connection_file}"]


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import no_such_module", r"ended with exit code 1; its last line: ModuleNotFoundError: No module named '\w+'"),
        ("import sys; sys.exit('no luck')", "ended with exit code 1; its last line: no luck"),
        pytest.param(
            "import os; os.kill(os.getpid(), 9)",
            "was killed by SIGKILL, often for lack of memory; its last line: none",
            marks=on_posix,
        ),
        (
            "import sys, time; print('thinking', file=sys.stderr, flush=True); time.sleep(600)",
            "did not answer within 2 s; its last line: thinking",
        ),
    ],
    ids=["import", "exit", "killed", "silent"],
)
def test_kernels_that_do_not_start_are_one_message(notebook, monkeypatch, capsys, program, said):
    monkeypatch.setattr(kernel, "kernel_command", failing(program))
    monkeypatch.setattr(kernel, "START_LIMIT_S", 2)
    with pytest.raises(RunError, match=rf"^who\.ipynb: no kernel starts; the second one {said}$"):
        execute(notebook)
    (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("the kernel ")]
    assert told.endswith(": it is started once more")


@on_posix
def test_a_kernel_that_dies_before_its_first_reply_is_started_once_more(notebook, tmp_path, monkeypatch, capsys):
    start = (
        "import os, pathlib, runpy, sys; first = pathlib.Path(sys.argv.pop(1)); tried = first.exists(); first.touch(); "
        "tried or os.kill(os.getpid(), 9); runpy.run_module('ipykernel_launcher', run_name='__main__')"
    )
    argv = [sys.executable, "-c", start, str(tmp_path / "first"), "-f", "{connection_file}"]
    monkeypatch.setattr(kernel, "kernel_command", lambda: argv)
    assert execute(notebook) == sys.executable
    said = "the kernel was killed by SIGKILL, often for lack of memory; its last line: none: it is started once more"
    assert said in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("death", "said"),
    [
        (
            "print('out of luck', file=sys.__stderr__, flush=True); os._exit(1)",
            "ended with exit code 1; its last line: out of luck",
        ),
        pytest.param("os.kill(os.getpid(), 9)", "was killed by SIGKILL, often for lack of memory; ", marks=on_posix),
        pytest.param(
            "print('bad_alloc', file=sys.__stderr__, flush=True); os.abort()",
            "was killed by SIGABRT; its last line: bad_alloc$",
            marks=on_posix,
        ),
        pytest.param(
            "import ctypes; ctypes.string_at(0)",
            "was killed by SIGSEGV; its last line: Fatal Python error: Segmentation fault$",
            marks=on_posix,
        ),
    ],
    ids=["exit", "killed", "abort", "crash"],
)
def test_a_kernel_that_dies_in_the_middle_is_one_message_and_runs_no_code_twice(tmp_path, death, said):
    notebook = write(tmp_path / "dies.ipynb", f"import os, sys\nprint('once', file=open(target, 'a'))\n{death}")
    with pytest.raises(RunError, match=rf"^dies\.ipynb: the kernel {said}"):
        execute(notebook)
    assert (tmp_path / "who").read_text() == "once\n"


def test_what_is_no_text_and_a_full_disk_below_the_error_output_fail_no_notebook(tmp_path, monkeypatch, capsys):
    code = "import os, sys\nos.write(sys.__stderr__.fileno(), b'caf\\xe9\\n')\nopen(target, 'w').write('done')"
    notebook = write(tmp_path / "bytes.ipynb", code)
    assert execute(notebook) == "done"
    assert "caf\ufffd\n" in capsys.readouterr().err
    full = []

    class Full(io.StringIO):
        def write(self, text):
            full.append(text)
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    assert execute(notebook) == "done"
    assert full == ["caf\ufffd\n"]


def test_a_folder_that_its_owner_removes_just_then_is_no_error(notebook, monkeypatch):
    (private_folder() / "kernels" / "left").mkdir(parents=True)
    looked = []

    class Lock(kernel.FileLock):
        def acquire(self, *args, **named):
            if Path(self.lock_file).parent.name == "left":
                looked.append(Path(self.lock_file))
                raise FileNotFoundError
            return super().acquire(*args, **named)

    monkeypatch.setattr(kernel, "FileLock", Lock)
    assert execute(notebook) == sys.executable
    assert len(looked) == 1
    looked[0].parent.rmdir()


def ends(pid):
    """One that has ended may stay in the table until whoever took its parent's place asks for it."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


EXECUTE = """
import sys
from pathlib import Path
from kvrepro import paths
from kvrepro.runs.notebooks import execute_notebook
*paths.HOST_FOLDERS, source, target = sys.argv[1:]
execute_notebook(Path(source), Path(source + ".run"), {"target": target})
"""


@on_posix
def test_a_kernel_ends_with_its_process_and_a_later_one_removes_what_is_left(notebook, tmp_path):
    code = "import os, re\nprint(os.getpid(), file=open(target, 'w'))\nre.match(r'(a+)+$', 'a' * 60 + 'b')"
    busy, target = write(tmp_path / "busy.ipynb", code), tmp_path / "pid"
    run = subprocess.Popen([sys.executable, "-c", EXECUTE, *paths.HOST_FOLDERS, str(busy), str(target)])
    while not (target.is_file() and target.read_text()):
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert ends(int(target.read_text()))
    kernels = private_folder() / "kernels"
    (left,) = filter(Path.is_dir, kernels.iterdir())
    assert execute(notebook) == sys.executable
    assert not left.exists()


@on_posix
def test_a_folder_that_others_may_change_is_refused(notebook):
    private_folder().chmod(0o777)
    with pytest.raises(KvreproError, match=r"kvrepro-\d+-[\w-]+ is no folder of yours alone \(mode 700\)"):
        execute(notebook)
