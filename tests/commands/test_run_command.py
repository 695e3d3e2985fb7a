"""`kvrepro run`: where a cell's values come from, what is said of it, and what becomes of a run that fails."""

from __future__ import annotations

import contextlib
import json
import sys

import pytest

from kvrepro.claims import is_held
from kvrepro.errors import RunError
from kvrepro.paths import results_root
from kvrepro.runs.config import CellConfig
from kvrepro.runs.folder import CellFolder

from ..cells import write_finished

CELL = ["--set", "model=tiny-r1-llama", "--set", "benchmark=chain-12"]


def test_dry_run_prints_the_resolved_cell_and_runs_nothing(call):
    command = ("run", *CELL, "--set", "method=window", "--set", "budget=192", "--dry-run")
    code, out, _ = call(*command)
    shown = json.loads(call(*command, "--json")[1])
    config = CellConfig("tiny-r1-llama", "chain-12", method="window", budget=192)
    assert code == 0
    assert shown["config"] == config.resolved()
    assert shown["cell_id"] == config.cell_id
    assert shown["folder"] == str(results_root() / "single" / config.cell_id)
    assert shown["complete"] is False
    assert "method: window" in out
    assert not results_root().exists()


def test_params_file_gives_values_and_set_overrides_them(call, tmp_path):
    file = tmp_path / "cell.yaml"
    file.write_text("model: tiny-r1-llama\nbenchmark: chain-23\nseed: 1\nn_samples: 3\n")
    overrides = ("--set", "seed=2", "--set", "n_problems=null")
    code, out, _ = call("run", "--params", str(file), *overrides, "--dry-run", "--json")
    config = json.loads(out)["config"]
    assert code == 0
    assert (config["benchmark"], config["seed"], config["n_samples"], config["n_problems"]) == ("chain-23", 2, 3, None)


def test_cell_of_a_profile_is_found_by_its_hash(call):
    from kvrepro.runs.profiles import load_profile

    cell = load_profile("smoke").cells[-1]
    code, out, _ = call("run", "--profile", "smoke", "--cell", cell.hash8, "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["folder"] == str(results_root() / "smoke" / cell.cell_id)


@pytest.mark.parametrize("content", ["model: [", "- a\n", ""])
def test_a_params_file_that_is_no_mapping_is_named(call, tmp_path, content):
    file = tmp_path / "cell.yaml"
    file.write_text(content)
    code, _, err = call("run", "--params", str(file))
    assert code == 2
    assert str(file) in err


def test_a_params_file_that_is_missing_is_named(call, tmp_path):
    code, _, err = call("run", "--params", str(tmp_path / "absent.yaml"))
    assert code in (1, 2)
    assert "absent.yaml" in err


def test_a_finished_cell_is_reported_and_not_run_again(call, monkeypatch):
    config = CellConfig("tiny-r1-llama", "chain-12")
    folder = write_finished("single", config)
    monkeypatch.setattr("kvrepro.runs.notebooks.run_cell_notebook", lambda *a: pytest.fail("ran again"))
    code, out, _ = call("run", *CELL)
    assert code == 0
    assert out.splitlines()[0] == "complete"
    assert "Pass@1 50.0 % [25.0, 75.0], n=4, k=1, 100 tokens/s" in out
    assert out.rstrip().endswith(f"; in {folder.path}")


@pytest.mark.parametrize(
    ("raised", "exit_code", "message"),
    [
        (RunError("cell x failed"), 1, "kvrepro run: cell x failed"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (KeyboardInterrupt(), 130, "what was finished is kept"),
    ],
)
@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_a_failed_run_is_one_message_and_no_result(call, monkeypatch, raised, exit_code, message, json_flag):
    def fail(*args):
        raise raised

    monkeypatch.setattr("kvrepro.runs.notebooks.run_cell_notebook", fail)
    stdout = sys.stdout
    code, out, err = call("run", *CELL, *json_flag)
    assert code == exit_code
    assert message in err
    assert "Traceback" not in err
    assert out == ""
    assert sys.stdout is stdout


@pytest.mark.parametrize("text", ["3/2", "0/2", "x"])
def test_a_shard_that_is_none_is_one_line(call, text):
    code, out, err = call("run", *CELL, "--shard", text)
    assert (code, out) == (2, "")
    assert err == f"kvrepro run: --shard {text}: expected I/N, part I of N with I from 1 to N, such as 2/3\n"
    assert not results_root().exists()


def test_a_shard_of_a_finished_cell_is_complete(call, monkeypatch):
    write_finished("single", CellConfig("tiny-r1-llama", "chain-12"))
    monkeypatch.setattr("kvrepro.commands.run.claimed_part", lambda *a: pytest.fail("a claim was taken"))
    code, out, _ = call("run", *CELL, "--shard", "1/2")
    assert code == 0
    assert out.splitlines()[0] == "complete"
    assert json.loads(call("run", *CELL, "--shard", "1/2", "--json")[1])["score"]["pass_at_1"] == 0.5


def test_a_shard_of_a_cell_that_is_finished_while_it_waits_is_complete(call, monkeypatch):
    config = CellConfig("tiny-r1-llama", "chain-12")

    @contextlib.contextmanager
    def claimed(folder, part):
        write_finished("single", config)
        yield

    monkeypatch.setattr("kvrepro.commands.run.claimed_part", claimed)
    monkeypatch.setattr("kvrepro.runs.runner.run_shard", lambda *a: pytest.fail("ran again"))
    code, out, _ = call("run", *CELL, "--shard", "2/2")
    assert (code, out.splitlines()[0]) == (0, "complete")


def test_a_shard_runs_under_its_claim_and_asks_cuda_nothing_before(call, monkeypatch):
    config = CellConfig("tiny-r1-llama", "chain-12")
    folder = CellFolder.of("single", config)
    claim = folder.path.with_name(f".{folder.path.name}.shard-2of3.lock")
    seen = []

    def shard(given, working, part, n_gpus):
        seen.append((given.cell_id, working, str(part), is_held(claim)))
        return {"replies": 5, "made": 3}

    # CUDA reads which devices it may see once, when it is first asked; the run holds its devices later
    for name in ("is_available", "device_count", "init"):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda: pytest.fail("CUDA was asked"))
    monkeypatch.setattr("kvrepro.runs.runner.run_shard", shard)
    code, out, _ = call("run", *CELL, "--shard", "2/3")
    assert code == 0
    assert seen == [(config.cell_id, folder.partial, "2/3", True)]
    assert out == f"{config.cell_id}: part 2/3: 3 replies made, 2 were there\n"
    shown = json.loads(call("run", *CELL, "--shard", "2/3", "--json")[1])
    assert (shown["shard"], shown["replies"], shown["made"]) == ("2/3", 5, 3)
    assert not claim.exists()


def test_a_dry_run_of_a_shard_says_what_a_dry_run_of_the_cell_says(call):
    outputs = [call("run", *CELL, *shard, "--dry-run") for shard in ([], ["--shard", "2/3"])]
    assert outputs[0] == outputs[1]
    assert outputs[0][0] == 0
