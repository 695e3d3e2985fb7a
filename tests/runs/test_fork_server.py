"""Forks of a loaded process do what a process of their own would, know nothing of each other, end with who asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from kvrepro.methods.table import METHODS
from kvrepro.runs.folder import CellFolder
from kvrepro.runs.fork_server import fork_server
from kvrepro.runs.stand_in import stand_in_command

from ..cells import HAS_MODEL, WINDOW, build

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="the fork server is Linux only")]
LIMIT_S = 120

MODULES = {
    # what a module of its own would find, and what it leaves behind
    "look": """
        import json, os, random, sys
        import numpy, torch
        found = {"argv": sys.argv, "folder": os.getcwd(), "path": sys.path[0], "own": os.environ.get("OWN"),
                 "left": os.environ.get("LEFT"), "name": __name__, "read": sys.stdin.read(),
                 "torch": torch.rand(1).item(), "numpy": numpy.random.rand(), "python": random.random(),
                 "threads": torch.get_num_threads(), "server": "papermill" in sys.modules}
        os.environ["LEFT"] = "something"
        os.chdir("/")
        torch.set_default_dtype(torch.float64)
        print(json.dumps(found))
        """,
    "leave": """
        import atexit, sys
        atexit.register(print, "tidied up")
        exec(sys.argv[1])
        """,
    "wait": """
        import os, signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: (print("asked to end", flush=True), sys.exit(7)))
        print(os.getpid(), flush=True)
        time.sleep(float(sys.argv[1]))
        print("slept well")
        """,
    "busy": """
        import os, re
        print(os.getpid(), flush=True)
        re.match(r"(a+)+$", "a" * 60 + "b")
        """,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Modules that can be run, importable by their names."""
    found = tmp_path_factory.mktemp("modules")
    for name, code in MODULES.items():
        lines = code.strip("\n").splitlines()
        (found / f"{name}.py").write_text("\n".join(line[8:] for line in lines))
    return found


def with_modules(environment, folder):
    paths = [str(folder), *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture(scope="module")
def forks(folder):
    """Environment of who may ask a server that all tests share."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in with_modules(os.environ, folder).items():
            patch.setenv(name, value)
        with fork_server(folder / "log") as environment:
            yield environment


def run(environment, *module, **more):
    command = stand_in_command(*module)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **more)


def start(environment, *module):
    """A stand-in, and the process that it stands for."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    stand_in = subprocess.Popen(stand_in_command(*module), env=environment, **pipes)
    fork = psutil.Process(int(stand_in.stdout.readline()))
    assert fork.pid != stand_in.pid
    return stand_in, fork


def ends(process):
    deadline = time.monotonic() + LIMIT_S
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_fork_finds_what_a_process_of_its_own_finds_and_nothing_of_another_fork(forks, folder, tmp_path):
    looked = []
    cold = with_modules(os.environ, folder)
    for number, environment in enumerate([forks, forks, cold]):
        place = tmp_path / str(number)
        place.mkdir()
        done = run({**environment, "OWN": str(number)}, "look", "--a", "b c", cwd=place, input=f"line {number}")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found.pop("folder") == found.pop("path") == str(place)
        assert (found.pop("own"), found.pop("read")) == (str(number), f"line {number}")
        looked.append(found)
    assert [found.pop("server") for found in looked] == [True, True, False]
    # what is seeded by chance in each process is so in each fork
    for name in ("torch", "numpy", "python"):
        assert len({found.pop(name) for found in looked}) == 3
    assert looked[0] == looked[1] == looked[2]
    assert looked[0]["left"] is None and looked[0]["argv"][1:] == ["--a", "b c"]


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        ("pass", 0, ""),
        ("sys.exit(5)", 5, ""),
        ("sys.exit('no such file')", 1, "no such file\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
    ],
)
def test_a_fork_ends_as_python_does(forks, code, exit_code, said):
    done = run(forks, "leave", code)
    assert (done.returncode, done.stdout) == (exit_code, "tidied up\n")
    assert done.stderr.endswith(said) and bool(done.stderr) == bool(said)


def test_a_fork_ends_with_its_stand_in_whatever_it_computes(forks):
    stand_in, fork = start(forks, "busy")
    stand_in.kill()
    stand_in.communicate()
    assert ends(fork)


def test_a_fork_that_is_killed_ends_its_stand_in_and_nothing_else(forks):
    (stand_in, fork), (beside, _) = start(forks, "busy"), start(forks, "wait", "1")
    fork.kill()
    assert stand_in.wait(LIMIT_S) == 128 + signal.SIGKILL
    assert beside.communicate(timeout=LIMIT_S) == ("slept well\n", "")
    assert beside.returncode == 0
    assert run(forks, "leave", "pass").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=lambda number: number.name)
def test_a_stand_in_says_which_signal_ended_its_fork(forks, number):
    assert run(forks, "leave", f"import os; os.kill(os.getpid(), {int(number)})").returncode == 128 + number


def test_signals_reach_the_fork(forks):
    stand_in, _ = start(forks, "wait", "600")
    stand_in.terminate()
    assert stand_in.communicate(timeout=LIMIT_S) == ("asked to end\n", "")
    assert stand_in.returncode == 7


def test_a_fork_has_loaded_whatever_of_the_package_a_cell_or_a_page_uses(forks):
    # a module that a fork must still import may have been edited since the grid began
    uses = """
        from importlib import import_module
        before = set(sys.modules)
        from kvrepro.methods.table import METHODS, method_class
        for name in METHODS:
            method_class(name)
        for name in ("cli", "commands.run", "commands.summary", "runs.runner", "pages.report", "bench.throughput"):
            import_module(f"kvrepro.{name}")
        print(len(METHODS), *sorted(name for name in set(sys.modules) - before if name.startswith("kvrepro")))
        """
    done = run(forks, "leave", textwrap.dedent(uses))
    assert done.stdout == f"{len(METHODS)}\ntidied up\n", done.stderr


@pytest.mark.model
@pytest.mark.skipif(not HAS_MODEL, reason="tiny-r1-llama is not in this checkout")
def test_a_cell_has_the_same_records_as_without_the_server(forks, folder, tmp_path):
    config = build(WINDOW, n_problems=2, max_new_tokens=120)
    (tmp_path / "cell.yaml").write_text(json.dumps(config.resolved()))
    read = {}
    for name, environment in {"forked": forks, "alone": os.environ}.items():
        environment = {**environment, "KVREPRO_RESULTS": str(tmp_path / name)}
        done = run(environment, "kvrepro", "run", "--params", str(tmp_path / "cell.yaml"), "--checked")
        assert done.returncode == 0, done.stderr
        assert "no fork server" not in done.stderr
        path = tmp_path / name / "single" / config.cell_id
        assert CellFolder(path, path).is_complete
        manifest = json.loads((path / "manifest.json").read_text())
        for measured in ("stats", "started", "ended", "wall_s", "runs"):
            del manifest[measured]
        notebook = json.loads((path / "run.ipynb").read_text())
        outputs = [out["data"] for cell in notebook["cells"] for out in cell.get("outputs", []) if "data" in out]
        pictures = [data["image/png"] for data in outputs if "image/png" in data]
        read[name] = (path / "records.jsonl").read_bytes(), manifest, len(outputs), pictures
    assert read["forked"] == read["alone"]
    assert len(read["forked"][3]) == 1


def test_a_server_that_ends_takes_no_fork_with_it_and_what_comes_later_starts_by_itself(folder, monkeypatch):
    for name, value in with_modules(os.environ, folder).items():
        monkeypatch.setenv(name, value)
    with fork_server(folder / "log") as environment:
        stand_in, fork = start(environment, "wait", "3")
        fork.parent().kill()
        alone = run(environment, "look", input="")
        assert json.loads(alone.stdout)["server"] is False
        assert "look starts by itself, which takes longer" in alone.stderr
        assert len(alone.stderr.splitlines()) == 1
        # it still ends with its stand-in, and as usual
        assert stand_in.communicate(timeout=LIMIT_S) == ("slept well\n", "")
        assert stand_in.returncode == 0


def test_a_server_with_threads_does_not_fork():
    code = (
        "import threading, kvrepro.runs.fork_server as server; server.LOADED = ('pandas',); "
        "threading.Thread(target=threading.Event().wait, name='another', daemon=True).start(); server.load()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "threads beside MainThread, another" in done.stderr and "every cell starts by itself" in done.stderr


def test_the_server_ends_with_the_block(folder, forks):
    with fork_server(folder / "second") as environment:
        assert environment["KVREPRO_FORKS"] != forks["KVREPRO_FORKS"]
        below = [process for process in psutil.Process().children() if "kvrepro.runs.fork_server" in process.cmdline()]
        assert len(below) == 2
    assert sum(process.is_running() for process in below) == 1
