"""One cell as an executed notebook: published whole, or named, kept and shown as failed."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest

from kvrepro.claims import held
from kvrepro.errors import KvreproError, RunError
from kvrepro.runs import notebooks as execution
from kvrepro.runs.folder import CellFolder, read_manifest
from kvrepro.runs.gpus import claimed_gpus

from ..cells import HAS_MODEL, WINDOW, build, write_finished

LIMIT_S = 120

pytestmark = [pytest.mark.model, pytest.mark.skipif(not HAS_MODEL, reason="tiny-r1-llama is not in this checkout")]


def test_a_parameter_that_the_notebook_does_not_have_is_refused(tmp_path):
    source = execution.project_root() / "notebooks" / "cell.ipynb"
    with pytest.raises(KvreproError, match=r"cell\.ipynb has no parameter budgett; it has model, benchmark"):
        execution.execute_notebook(source, tmp_path / "run.ipynb", {"model": "tiny-r1-llama", "budgett": 3})
    assert not (tmp_path / "run.ipynb").exists()


# writes a cell's results without a model
FINISH = """
import json, os, pathlib
folder, kept = pathlib.Path(folder), ("KVREPRO_GPUS", "CUDA_VISIBLE_DEVICES")
(folder / "records.jsonl").write_text("")
manifest = {"cell_id": CELL_ID, "n_records": 0, "seen": [os.environ.get(name) for name in kept]}
(folder / "manifest.json").write_text(json.dumps(manifest))
"""


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Have cells run this code in place of the notebook, with its parameters."""

    def prepare(config, code):
        found = nbformat.v4.new_notebook()
        found.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        names = "\n".join(f"{name} = None" for name in (*config.resolved(), "folder"))
        parameters = nbformat.v4.new_code_cell(names, metadata={"tags": ["parameters"]})
        code = code.replace("CELL_ID", repr(config.cell_id))
        found.cells = [parameters, nbformat.v4.new_code_cell(code)]
        (tmp_path / "notebooks").mkdir()
        nbformat.write(found, tmp_path / "notebooks" / "cell.ipynb")
        monkeypatch.setattr(execution, "project_root", lambda: tmp_path)
        return CellFolder.of("single", config)

    return prepare


def test_a_kernel_that_dies_is_a_failed_cell_and_no_traceback(runs):
    config = build(WINDOW)
    folder = runs(config, "import os; os._exit(3)")
    expected = f"{config.hash8} failed: cell.ipynb: the kernel ended with exit code 3; its last line: none\n"
    with pytest.raises(RunError, match=expected):
        execution.run_cell_notebook("single", config)
    assert folder.state == "failed"


def test_an_error_in_code_of_ones_own_is_named_with_its_place(runs, tmp_path):
    ideas = tmp_path / "ideas.py"
    ideas.write_text("class Mine:\n    def score(self, run):\n        return run()\n")
    config = build(WINDOW)
    # the error itself is raised by the package, below the class
    runs(
        config,
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport ideas, kvrepro\n"
        "ideas.Mine().score(lambda: kvrepro.load_profile('nobody'))",
    )
    with pytest.raises(RunError, match=r"unknown profile 'nobody'.* \(ideas\.py, line 3, in Mine\.score\)\n"):
        execution.run_cell_notebook("single", config)


def test_an_error_of_the_package_alone_names_no_place(runs):
    config = build(WINDOW)
    runs(config, "import kvrepro; kvrepro.load_profile('nobody')")
    with pytest.raises(RunError, match=r"unknown profile 'nobody'[^()]*\nexecuted notebook"):
        execution.run_cell_notebook("single", config)


@pytest.mark.parametrize(("n_gpus", "visible"), [(0, None), (1, "5"), (2, "5,6")])
def test_a_cell_sees_the_devices_that_it_claimed(runs, monkeypatch, n_gpus, visible):
    monkeypatch.setenv("KVREPRO_GPUS", "5,6")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    config = build(WINDOW)
    folder = runs(config, FINISH)
    execution.run_cell_notebook("single", config, n_gpus)
    assert read_manifest(folder.path)["seen"] == ([None, visible] if n_gpus else ["5,6", None])


@contextmanager
def waiting(config, folder, capsys):
    """Have a cell run in a thread, and wait until it has said that it waits, for what holds it inside the block."""
    with ThreadPoolExecutor(1) as threads:
        with held(folder.lock, "the first run"):
            run = threads.submit(execution.run_cell_notebook, "single", config)
            said = ""
            while not run.done() and not said:
                said = capsys.readouterr().err
            assert said.startswith(f"cell {config.cell_id} waits for another process, pid {os.getpid()} on ")
            assert folder.is_running
            yield
        assert run.result(LIMIT_S) == folder.path


def test_a_cell_that_another_process_runs_is_waited_for_without_a_device_and_taken_over(runs, monkeypatch, capsys):
    monkeypatch.setenv("KVREPRO_GPUS", "5")
    config = build(WINDOW)
    folder = runs(config, FINISH)
    with waiting(config, folder, capsys):
        with claimed_gpus(1) as names:
            assert names == ["5"]
        assert capsys.readouterr().err == ""
    assert read_manifest(folder.path)["seen"] == [None, "5"]
    assert not folder.is_running


def test_a_cell_that_another_process_finished_meanwhile_is_left_alone(runs, capsys):
    config = build(WINDOW)
    folder = runs(config, "raise SystemExit('run twice')")
    with waiting(config, folder, capsys):
        write_finished("single", config)
    assert folder.is_complete and not folder.partial.exists()


def test_a_cell_that_was_lost_to_another_process_is_not_published(runs):
    config = build(WINDOW)
    take = """
claim = folder.with_name(folder.name.replace(".partial", ".lock"))
mine = json.loads(claim.read_text())
claim.write_text(json.dumps({**mine, "host": "node7", "place": "node7", "token": "another"}))
"""
    folder = runs(config, FINISH + take)
    with pytest.raises(RunError, match=rf"{config.hash8}: pid \d+ on node7 took over from this process"):
        execution.run_cell_notebook("single", config)
    assert not folder.path.exists()
    # whoever has it now goes on
    assert folder.is_running and folder.partial.is_dir()


def test_damaged_results_are_set_aside_and_made_again(runs, capsys):
    config = build(WINDOW)
    folder = runs(config, FINISH)
    write_finished("single", config)
    (folder.path / "records.jsonl").write_text("cut")
    (folder.path / "manifest.json").unlink()
    execution.run_cell_notebook("single", config)
    assert folder.is_complete
    assert (folder.path.with_name(f".{folder.path.name}.damaged-1") / "records.jsonl").read_text() == "cut"


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
