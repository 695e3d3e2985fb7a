"""One cell as an executed notebook: published whole, or named, kept and shown as failed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kvrepro.errors import KvreproError, RunError
from kvrepro.runs import notebooks as execution
from kvrepro.runs.folder import CellFolder

from ..cells import HAS_MODEL, WINDOW, build

pytestmark = [pytest.mark.model, pytest.mark.skipif(not HAS_MODEL, reason="tiny-r1-llama is not in this checkout")]


def test_a_parameter_that_the_notebook_does_not_have_is_refused(tmp_path):
    source = execution.project_root() / "notebooks" / "cell.ipynb"
    with pytest.raises(KvreproError, match=r"cell\.ipynb has no parameter budgett; it has model, benchmark"):
        execution.execute_notebook(source, tmp_path / "run.ipynb", {"model": "tiny-r1-llama", "budgett": 3})
    assert not (tmp_path / "run.ipynb").exists()


def test_a_kernel_that_dies_is_a_failed_cell_and_no_traceback(monkeypatch):
    # what nbclient raises when the kernel is killed, for example for memory; it is no PapermillExecutionError
    from nbclient.exceptions import DeadKernelError

    def die(*args, **kwargs):
        raise DeadKernelError("Kernel died")

    monkeypatch.setattr("papermill.execute_notebook", die)
    config = build(WINDOW)
    with pytest.raises(RunError, match=f"{config.hash8} failed: .*Kernel died"):
        execution.run_cell_notebook("single", config)


HOLD_LOCK = """
import pathlib, sys, time
from kvrepro.files import held
with held(pathlib.Path(sys.argv[1]), "x"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_cell_that_another_process_runs_is_refused_and_shown_as_running():
    config = build(WINDOW)
    folder = CellFolder.of("single", config)
    holder = subprocess.Popen([sys.executable, "-c", HOLD_LOCK, str(folder.lock)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline().strip() == "held"
        assert folder.is_running
        with pytest.raises(KvreproError, match=f"{config.hash8} is being run by another process, pid {holder.pid} "):
            execution.run_cell_notebook("single", config)
    finally:
        holder.kill()
        holder.wait()
    # the lock dies with its process
    assert not folder.is_running


def test_a_cell_runs_as_a_notebook_and_is_published_whole():
    config = build(WINDOW, n_problems=1)
    path = execution.run_cell_notebook("single", config)
    folder = CellFolder.of("single", config)
    assert path == folder.path
    assert folder.is_complete
    assert not folder.partial.exists()
    notebook = json.loads((path / "run.ipynb").read_text())
    assert notebook["metadata"]["papermill"]["exception"] is None
    assert any("image/png" in out.get("data", {}) for cell in notebook["cells"] for out in cell.get("outputs", []))


def test_a_failed_cell_is_named_kept_and_shown_as_failed():
    config = build(WINDOW, budget=40, window=16)
    with pytest.raises(RunError, match="the prompt has") as caught:
        execution.run_cell_notebook("single", config)
    assert config.cell_id in str(caught.value)
    failed = Path(str(caught.value).split("executed notebook: ")[1])
    assert "KvreproError" in failed.read_text()
    assert CellFolder.of("single", config).state == "failed"
