"""Executors by name or folder, and a scheduler's queue: a file here, with small programs in the place of SLURM's."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

from kvrepro.cli import main
from kvrepro.errors import KvreproError, UnknownNameError
from kvrepro.runs import executors
from kvrepro.runs.executors import Executor, cancel, queued_jobs
from kvrepro.runs.grid_folder import GridFolder

HAS_PLUGIN = find_spec("snakemake_executor_plugin_slurm") is not None
needs_plugin = pytest.mark.skipif(not HAS_PLUGIN, reason="snakemake-executor-plugin-slurm is not installed")
ID = "0d7a5b0e-5a0c-4bb5-a5a0-4a0f6c6f0d11"
CELL = "rule_cell_wildcards_tiny-r1-llama_chain-12_full-none_2beff874"
SHARD = "rule_shard_wildcards_tiny-r1-llama_chain-12_full-none_2beff874_1-of-2"
QUEUE = f"""\
7|RUNNING|node3|kvrepro-tiny--box-12-abc_{ID}|{CELL}
8|PENDING||kvrepro-tiny--box-12-abc_{ID}|{SHARD}
9|PENDING||kvrepro-tiny-methods--box-13-abc_{ID}|rule_cell_wildcards_other
10|COMPLETING|node3|kvrepro-tiny--box-12-abc_{ID}|rule_cell_wildcards_ended
11|RUNNING|node4|somebody's work|(null)
12|PENDING||kvrepro-tiny--box-14-def_{ID}|rule_throughput_wildcards_tiny-r1-llama_chain-12
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Programs that read and change the file `queue`; accounting is off."""
    queue = tmp_path / "queue"
    queue.write_text(QUEUE)
    programs = {
        "squeue": f"cat {queue}",
        "scancel": f'for id in "$@"; do sed -i "/^$id|/d" {queue}; done',
        "sbatch": "exit 1",
        "sacct": "echo 'Slurm accounting storage is disabled' >&2; exit 1",
    }
    (tmp_path / "bin").mkdir()
    for name, body in programs.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return queue


def test_jobs_are_those_of_this_profile_s_cells_and_parts(slurm):
    found = queued_jobs("tiny")
    assert {name: (job.id, job.state, job.host) for name, job in found.items()} == {
        "tiny-r1-llama_chain-12_full-none_2beff874": ("7", "running", "node3"),
        "tiny-r1-llama_chain-12_full-none_2beff874_1-of-2": ("8", "queued", ""),
    }
    assert list(queued_jobs("tiny-methods")) == ["other"]


def test_the_jobs_of_one_grid_are_cancelled_and_no_others(slurm):
    assert cancel("tiny", ["box-12-abc"], only_queued=True) == 1
    assert cancel("tiny", ["box-12-abc"]) == 1
    assert [line.split("|")[0] for line in slurm.read_text().splitlines()] == ["9", "10", "11", "12"]
    assert cancel("tiny", ["box-12-abc"]) == 0


def test_a_scheduler_that_does_not_answer_is_a_warning(slurm, monkeypatch):
    (slurm.parent / "bin" / "squeue").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    with pytest.warns(RuntimeWarning, match="squeue: Unable to contact slurm controller"):
        assert queued_jobs("tiny") == {}
    (slurm.parent / "bin" / "squeue").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(executors, "LIMIT_S", 0.2)
    with pytest.warns(RuntimeWarning, match=r"squeue did not answer within 0\.2 s"):
        assert queued_jobs("tiny") == {}


def test_without_slurm_there_are_no_jobs(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert queued_jobs("tiny") == {}


@needs_plugin
def test_the_shipped_slurm_profile_and_what_it_cannot_know(slurm):
    found = Executor.load("slurm")
    assert found.plugin == "slurm" and found.alone == "--exclusive"
    assert found.default("runtime") > 0 and found.default("nothing") is None
    grid = GridFolder.new("tiny-methods")
    flags = found.flags(grid, "tiny-methods")
    assert f"--slurm-jobname-prefix=kvrepro-tiny-methods--{grid.path.name}" in flags
    # this cluster keeps no accounts
    assert "--slurm-status-command=squeue" in flags and "--slurm-no-account" in flags
    (slurm.parent / "bin" / "sacct").write_text("#!/bin/sh\nexit 0\n")
    assert "--slurm-status-command=squeue" not in found.flags(grid, "tiny-methods")


def test_an_unknown_executor_is_named_with_those_that_there_are(tmp_path):
    with pytest.raises(UnknownNameError, match="unknown executor 'slum'; known: .*slurm.*did you mean 'slurm'"):
        Executor.load("slum")
    (tmp_path / "config.yaml").write_text("jobs: 3\n")
    with pytest.raises(KvreproError, match=r"config\.yaml: executor=None: name one of Snakemake's, such as `slurm`"):
        Executor.load(str(tmp_path))


def test_a_plugin_that_is_missing_is_named_with_how_to_install_it(tmp_path):
    (tmp_path / "config.yaml").write_text("executor: not-there\n")
    with pytest.raises(KvreproError, match="pip install snakemake-executor-plugin-not-there"):
        Executor.load(str(tmp_path))


@needs_plugin
def test_a_machine_without_slurm_is_no_login_node(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KvreproError, match="there is no `sbatch` here: run it on a login node"):
        Executor.load("slurm")


def test_a_folder_of_one_s_own(tmp_path):
    (tmp_path / "config.yaml").write_text("executor: local\njobs: 3\ndefault-resources: [runtime=20, mem_mb=100]\n")
    found = Executor.load(str(tmp_path))
    assert (found.plugin, found.n_jobs, found.default("runtime"), found.alone) == ("local", 3, 20, "")
    assert found.flags(GridFolder.new("tiny"), "tiny") == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--executor", "slum"], "unknown executor 'slum'"),
        (["--gpus", "99"], "--gpus 99: this machine has"),
        (["--gpus", "-1"], "--gpus -1: must be at least 0"),
        (["--shards", "0"], "--shards 0: must be at least 1"),
        (["--cell-hours", "0"], "--cell-hours 0.0: must be at least 0.01"),
        (["--shards", "2", "--cell-hours", "3"], "--shards splits every cell and --cell-hours only long ones"),
        (["--cores", "0"], "--cores 0: must be at least 1"),
    ],
)
def test_what_cannot_be_had_is_one_line_before_anything_starts(call, flags, message):
    code, out, err = call("grid", "smoke", *flags)
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1
    assert out == ""


def test_devices_that_are_named_are_enough_and_no_more(capfd, monkeypatch):
    monkeypatch.setenv("KVREPRO_GPUS", "0,1")
    assert main(["grid", "smoke", "--gpus", "3"]) == 2
    assert "--gpus 3: this machine has 2 that can be used (0, 1): --gpus 2" in capfd.readouterr().err
    assert main(["grid", "smoke", "--gpus", "2", "--dry-run", "--json"]) == 0
