"""Executors by name or folder, and a scheduler's queue: a file here, with small programs in the place of SLURM's."""

from __future__ import annotations

import os
import subprocess
from importlib.util import find_spec

import pytest

from kvrepro.cli import main
from kvrepro.errors import KvreproError, UnknownNameError
from kvrepro.grids import executors
from kvrepro.grids.executors import Executor, Job, cancel, queued_jobs
from kvrepro.grids.folder import GridFolder
from kvrepro.paths import project_root, results_root

HAS_PLUGIN = find_spec("snakemake_executor_plugin_cluster_generic") is not None
needs_plugin = pytest.mark.skipif(not HAS_PLUGIN, reason="snakemake-executor-plugin-cluster-generic is not installed")
CELL = "tiny-r1-llama/chain-12/full-none/2beff874"
QUEUE = f"""\
7|RUNNING|node3|kvrepro-tiny--box-12-abc|cell cell={CELL}
8|PENDING||kvrepro-tiny--box-12-abc|shard cell={CELL} part=1-of-2
9|PENDING||kvrepro-tiny-methods--box-13-abc|cell cell=other
10|COMPLETING|node3|kvrepro-tiny--box-12-abc|cell cell=ended
11|RUNNING|node4|somebody's work|(null)
12|PENDING||kvrepro-tiny--box-14-def|throughput panel=tiny-r1-llama/chain-12
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Programs that read and change the file `queue`."""
    executors._say.cache_clear()
    queue = tmp_path / "queue"
    queue.write_text(QUEUE)
    programs = {
        "squeue": f"cat {queue}",
        "scancel": f'for id in "$@"; do sed -i "/^$id|/d" {queue}; done',
        "sbatch": "exit 1",
        "sinfo": "echo node3",
    }
    (tmp_path / "bin").mkdir()
    for name, body in programs.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return queue


def test_jobs_are_those_of_this_profile_s_grids(slurm):
    assert queued_jobs("tiny") == [
        Job("7", "box-12-abc", CELL, None, "running", "node3"),
        Job("8", "box-12-abc", CELL, "1-of-2", "queued", ""),
        Job("12", "box-14-def", None, None, "queued", ""),
    ]
    assert [job.cell for job in queued_jobs("tiny-methods")] == ["other"]


def test_the_jobs_of_one_grid_are_cancelled_and_no_others(slurm):
    assert cancel("tiny", ["box-12-abc"], only_queued=True) == 1
    assert cancel("tiny", ["box-12-abc"]) == 1
    assert [line.split("|")[0] for line in slurm.read_text().splitlines()] == ["9", "10", "11", "12"]
    assert cancel("tiny", ["box-12-abc"]) == 0


def test_a_queue_that_cannot_be_seen_is_not_taken_for_an_empty_one(slurm, monkeypatch, capsys):
    program = slurm.parent / "bin" / "squeue"
    works = program.read_text()
    # it answers once more at its third time
    program.write_text(
        f"{works.splitlines()[0]}\necho >> {slurm}.asked\n[ $(wc -l < {slurm}.asked) -gt 2 ] || exit 1\n{works}"
    )
    assert cancel("tiny", ["box-12-abc"]) == 2
    assert capsys.readouterr().err == "squeue: exit code 1\n"
    program.write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.setattr(executors, "CANCEL_S", 0.5)
    cancel("tiny", ["box-12-abc"])
    # what was said once is not said again
    assert capsys.readouterr().err == "jobs of box-12-abc may be left: squeue --me shows them\n"
    assert executors.grids_with_jobs("tiny") is None


def test_a_scheduler_that_does_not_answer_is_one_line(slurm, monkeypatch, capsys):
    (slurm.parent / "bin" / "squeue").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    assert queued_jobs("tiny") == queued_jobs("tiny") == []
    assert capsys.readouterr().err == "squeue: Unable to contact slurm controller\n"
    (slurm.parent / "bin" / "squeue").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(executors, "LIMIT_S", 0.2)
    assert queued_jobs("tiny") == []
    assert capsys.readouterr().err == "squeue did not answer within 0.2 s\n"


def test_without_slurm_there_are_no_jobs(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert queued_jobs("tiny") == []
    # a cluster that this machine does not see may run some all the same
    assert executors.grids_with_jobs("tiny") is None


@needs_plugin
def test_what_the_shipped_profile_asks_slurm_for(slurm):
    found, grid = Executor.load("slurm"), GridFolder.new("tiny")
    assert found.is_slurm and found.default("runtime") > 0 and found.default("nothing") is None
    needs = {"mem_mb": 3000, "runtime_min": 20, "gpus": 2}
    logs = results_root() / "tiny" / "logs" / "slurm" / "%j.log"
    named = f"--job-name=kvrepro-tiny--{grid.name} --output={logs} --ntasks=1"
    assert found.asked(grid, "tiny", needs) == f"{named} --mem=3000M --time=20 --gpus=2"
    # what is not known is not asked for, and a cluster without GPUs is asked for none
    assert found.asked(grid, "tiny", dict.fromkeys(needs, 0), is_alone=True) == f"{named} --exclusive"
    (flag,) = found.flags()
    assert flag == f"--cluster-generic-status-cmd=sh {found.folder / 'status.sh'}"


@needs_plugin
def test_a_cluster_without_gpus_says_so_before_its_jobs_are_refused(slurm):
    sinfo = slurm.parent / "bin" / "sinfo"
    sinfo.write_text("#!/bin/sh\necho '(null)'\n")
    with pytest.raises(KvreproError, match=r"no node of this cluster has GPUs \(sinfo\): --gpus 0 runs on processors"):
        Executor.load("slurm").check_gpus()
    sinfo.write_text("#!/bin/sh\necho '(null)'; echo gpu:2\n")
    Executor.load("slurm").check_gpus()


@pytest.mark.skipif(os.name != "posix", reason="a script for a POSIX shell")
@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("echo RUNNING", "running"),
        ("echo PENDING", "running"),
        ("echo COMPLETING", "running"),
        ("echo COMPLETED", "success"),
        ("echo TIMEOUT", "failed"),
        ("echo NODE_FAIL", "failed"),
        # of a job that SLURM has forgotten the mark decides; a controller that is down says nothing
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", "success"),
        ("exit 0", "success"),
        ("echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1", "running"),
    ],
)
def test_a_job_is_failed_only_where_slurm_says_so(slurm, answer, status):
    (slurm.parent / "bin" / "squeue").write_text(f"#!/bin/sh\n{answer}\n")
    assert asked_of(slurm.parent, 7) == status


def asked_of(folder, job):
    """What the shipped profile's program says of a job."""
    script = project_root() / "profiles" / "slurm" / "status.sh"
    done = subprocess.run(["sh", str(script), str(job)], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.skipif(os.name != "posix", reason="a script for a POSIX shell")
def test_slurm_is_asked_once_for_all_jobs_and_of_new_ones_by_name(slurm):
    folder, program = slurm.parent, slurm.parent / "bin" / "squeue"
    one = 'case "$*" in *--jobs=9*) echo PENDING; exit;; esac'
    program.write_text(
        f"#!/bin/sh\necho \"$*\" >> {folder}/asked\n{one}\necho '7 RUNNING'; echo '8 COMPLETED'; echo '71 FAILED'\n"
    )
    assert [asked_of(folder, job) for job in (7, 8, 71)] == ["running", "success", "failed"]
    assert len((folder / "asked").read_text().splitlines()) == 1
    # submitted after the list was made
    assert asked_of(folder, 9) == "running"
    assert "--jobs=9" in (folder / "asked").read_text().splitlines()[-1]
    # the list is old, and SLURM does not answer: what was known is what is known
    (folder / "jobs").write_text("1\n7 RUNNING\n")
    program.write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    assert asked_of(folder, 7) == "running" and asked_of(folder, 9) == "running"


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


@needs_plugin
def test_a_cluster_that_does_not_answer_is_said_before_anything_starts(slurm, capsys):
    (slurm.parent / "bin" / "sinfo").write_text("#!/bin/sh\necho 'fatal: no configuration source' >&2; exit 1\n")
    with pytest.raises(KvreproError, match="SLURM does not answer: run it where `sinfo` lists its nodes"):
        Executor.load("slurm")
    assert capsys.readouterr().err == "sinfo: fatal: no configuration source\n"


@pytest.mark.skipif(
    find_spec("snakemake_executor_plugin_kubernetes") is None,
    reason="snakemake-executor-plugin-kubernetes is not installed",
)
def test_kubernetes_needs_an_image():
    with pytest.raises(KvreproError, match="names no container-image: copy the folder, follow its comments"):
        Executor.load("kubernetes")


def test_a_folder_without_a_file_for_snakemake_says_what_is_missing(tmp_path):
    with pytest.raises(KvreproError, match=r"the folder has no config\.yaml for Snakemake"):
        Executor.load(str(tmp_path))


def test_a_folder_of_one_s_own(tmp_path):
    (tmp_path / "config.yaml").write_text("executor: local\njobs: 3\ndefault-resources: [runtime=20, mem_mb=100]\n")
    found = Executor.load(str(tmp_path))
    assert (found.plugin, found.n_jobs, found.default("runtime"), found.is_slurm) == ("local", 3, 20, False)
    assert found.flags() == []
    # another scheduler is told by its own file, which names Snakemake's resources
    assert found.asked(GridFolder.new("tiny"), "tiny", {"mem_mb": 1, "runtime_min": 1, "gpus": 1}) == ""


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


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("{runtime: 90}", 90),
        ("{runtime: 12h}", 720),
        ("[runtime=2d, mem_mb=100]", 2880),
        ("runtime=30m", 30),
        ("{mem_mb: 100}", None),
    ],
)
def test_minutes_of_an_executor_s_file(tmp_path, settings, expected):
    (tmp_path / "config.yaml").write_text(f"executor: local\njobs: unlimited\ndefault-resources: {settings}\n")
    found = Executor.load(str(tmp_path))
    assert found.default("runtime") == expected and found.n_jobs > 10**6


def test_a_time_that_is_none_is_named_with_its_file(tmp_path):
    (tmp_path / "config.yaml").write_text("executor: local\ndefault-resources: {runtime: long}\n")
    with pytest.raises(KvreproError, match=r"config\.yaml: runtime='long': a number"):
        Executor.load(str(tmp_path)).default("runtime")


def test_a_cell_that_needs_more_devices_than_are_counted_is_refused(call, monkeypatch):
    monkeypatch.setenv("KVREPRO_GPUS", "0,1,2")
    monkeypatch.setattr("kvrepro.runs.forecast.gpus_needed", lambda *_: 2)
    code, _, err = call("grid", "smoke", "--gpus", "1")
    assert code == 2 and "--gpus 1: some cells need 2 GPUs each: --gpus 2" in err


def test_devices_that_are_named_are_enough_and_no_more(capfd, monkeypatch):
    monkeypatch.setenv("KVREPRO_GPUS", "0,1")
    assert main(["grid", "smoke", "--gpus", "3"]) == 2
    assert "--gpus 3: this machine has 2 that can be used (0, 1): --gpus 2" in capfd.readouterr().err
    assert main(["grid", "smoke", "--gpus", "2", "--dry-run", "--json"]) == 0
