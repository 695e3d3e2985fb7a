"""What cells need is looked for before the first one starts; a line per cause."""

from __future__ import annotations

import dataclasses
import shutil
import types

import pytest

from kvrepro.cli import main
from kvrepro.errors import KvreproError
from kvrepro.models.memory import GIB
from kvrepro.models.table import model_entry
from kvrepro.paths import results_root
from kvrepro.runs import preflight
from kvrepro.runs.config import CellConfig
from kvrepro.runs.preflight import check_cells
from kvrepro.runs.profiles import load_profile

FULL = CellConfig(model="tiny-r1-llama", benchmark="chain-12", method="full")


def changed(**values):
    return dataclasses.replace(FULL, **{"budget": 192, "window": 32, **values})


@pytest.fixture
def nothing_here(tmp_path, monkeypatch):
    """No rows, no fetched model, no Hub."""
    (tmp_path / "rows").mkdir()
    monkeypatch.setenv("KVREPRO_DATA", str(tmp_path / "rows"))
    monkeypatch.setenv("KVREPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_cells_that_can_run_are_passed():
    check_cells(load_profile("smoke").cells)


def test_a_grid_without_rows_and_weights_starts_nothing_and_says_both(nothing_here, capfd):
    assert main(["grid", "smollm2", "--cores", "1"]) == 2
    out, err = capfd.readouterr()
    lines = err.strip().splitlines()
    assert len(lines) == 3 and out == ""
    assert lines[0] == "kvrepro grid: nothing was started"
    assert lines[1].startswith("all 16 cells: model 'smollm2-135m' is not on this machine: run `kvrepro fetch smollm2`")
    assert lines[2].startswith("all 16 cells: ") and "gk23en.jsonl" in lines[2]
    # no log, no mark, no unfinished cell
    assert [path for path in (results_root() / "smollm2").rglob("*") if path.is_file()] == []


def test_a_run_without_rows_starts_nothing(nothing_here, capfd, monkeypatch):
    monkeypatch.setattr("kvrepro.runs.notebooks.run_cell_notebook", lambda *args: pytest.fail("it was started"))
    arguments = ["--set", "model=tiny-r1-llama", "--set", "benchmark=gk23en", "--set", "method=full"]
    assert main(["run", *arguments]) == 2
    assert "gk23en.jsonl" in capfd.readouterr().err


def test_only_the_cells_of_a_cause_are_counted():
    cells = [FULL, changed(method="dynts", ratio=0.75, predictor="/no/such/head"), changed(method="window")]
    with pytest.raises(KvreproError) as caught:
        check_cells(cells)
    first, second = str(caught.value).splitlines()
    assert first == "nothing was started"
    assert second.startswith(f"{cells[1].cell_id}: no importance predictor in /no/such/head")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "triattention", "calibration": "/no/such"}, "no query statistics in /no/such"),
        (
            {"method": "foresight_kv", "budget": 384, "window": 128, "judge": "/no/such"},
            "no eviction judge in /no/such",
        ),
        ({"method": "dynts", "ratio": 0.75, "predictor": "/no/such"}, "no importance predictor in /no/such"),
    ],
)
def test_what_a_method_reads_beside_the_weights_is_looked_for(values, message):
    with pytest.raises(KvreproError, match=message):
        check_cells([changed(**values)])


def test_a_predictor_of_another_width_is_found(tmp_path):
    from kvrepro.methods.learned.importance import ImportancePredictor, PredictorShape, save_predictor

    save_predictor(ImportancePredictor(PredictorShape(8, 8, 8)), tmp_path / "head", {})
    with pytest.raises(KvreproError, match="is 8 wide, the model's hidden state"):
        check_cells([changed(method="dynts", ratio=0.75, predictor=str(tmp_path / "head"))])


def test_a_folder_that_lost_its_weights_is_found(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model_entry("tiny-r1-llama").source, folder)
    cell = dataclasses.replace(FULL, model=str(folder))
    check_cells([cell])
    (folder / "model.safetensors").unlink()
    with pytest.raises(KvreproError, match=r"has no \*\.safetensors weights"):
        check_cells([cell])


def test_a_hub_model_that_is_not_here_is_found_offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(KvreproError, match="no network, or offline mode, and revision"):
        check_cells([dataclasses.replace(FULL, model="r1-qwen-1.5b")])


def test_too_little_memory_and_a_full_disk_are_found(monkeypatch):
    monkeypatch.setattr("kvrepro.models.memory.free_bytes", lambda *args: 1 << 20)
    with pytest.raises(KvreproError, match="needs .* GiB on cpu"):
        check_cells([FULL], "cpu")
    monkeypatch.undo()
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=100))
    with pytest.raises(KvreproError, match="has 0.0 GiB free: make room"):
        check_cells([FULL], "cpu")
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=GIB))
    check_cells([FULL], "cpu")


def test_the_runner_looks_before_it_loads_the_model(tmp_path, monkeypatch):
    from kvrepro.runs import runner

    monkeypatch.setattr(runner, "load_model", lambda *args: pytest.fail("the model was loaded"))
    with pytest.raises(KvreproError, match="no importance predictor"):
        runner.run_cell(changed(method="dynts", ratio=0.75, predictor="/no/such"), tmp_path / "cell")
