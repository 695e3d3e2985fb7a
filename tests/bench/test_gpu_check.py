"""`kvrepro gpu-check`: refuses without a GPU; its processes, its file and its verdict, with works made for tests."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch

from kvrepro.bench.gpu import clocks, plan, report, supervisor, verdict
from kvrepro.bench.gpu.plan import PARTS, Settings, Unit
from kvrepro.cli import main
from kvrepro.commands import gpu_check
from kvrepro.errors import KvreproError
from kvrepro.models.shapes import SHAPES
from kvrepro.paths import PACKAGE

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so the command would run")
ROOT = PACKAGE.parent
SMALL = Settings(("r1-llama-8b",), 2, "cpu", True)
GPU = Settings(("r1-llama-8b",))


@without_gpu
def test_without_a_gpu_nothing_is_measured(tmp_path, capsys):
    assert main(["gpu-check", "--out", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert "kvrepro gpu-check: no GPU" in captured.err and "`make test` proves the kernels" in captured.err
    assert not captured.out and not (tmp_path / "out").exists()


def test_the_command_runs_its_parts_in_small_and_writes_one_file(tmp_path, capsys):
    small = ["--device", "cpu", "--small", "--rows", "2", "--models", "r1-llama-8b", "--limit-s", "120"]
    assert main(["gpu-check", "--out", str(tmp_path), "--only", "decode", *small]) == 0
    printed = capsys.readouterr().out.splitlines()
    (file,) = tmp_path.glob("*.json")
    assert printed[0].startswith("device: name cpu") and printed[-1].endswith(f". Everything: {file}")
    data = json.loads(file.read_text())
    # the rates come along, for without them there is no bound
    assert [(p["part"], p["rc"]) for p in data["parts"]] == [("rates", 0), ("decode", 0)]
    assert data["read_bytes_per_s"] == max(r["bytes_per_s"] for r in data["rates"] if r["kind"] == "read")
    assert len(data["decode"]) == 2 and data["errors"] == []
    # the model that is timed is compared first
    assert len(data["correct"]) == 1
    assert data["conclusion"].startswith("RIGHT: all 1 comparisons of logits")
    for row in data["decode"]:
        in_bound = 2 * data["read_bytes_per_s"] / row["step_bytes"]
        assert row["fraction_of_bound"] == pytest.approx(row["decode_tps"] / in_bound)
    assert data["verdict"]["budgets"]["r1-llama-8b C=60"]["fraction_of_bound"] > 0


@pytest.fixture
def run_units(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "LEAST_S", 0.1)
    made = report.Report(tmp_path / "report.json", SMALL, {"name": "none"})

    def run(*works: str, limit_s: float = 60.0, until_s: float = 120.0):
        units = [Unit("correct", f"tests.bench.gpu_works:{work}", work, limit_s) for work in works]
        with supervisor.Supervisor(made, tmp_path / "parts", SMALL) as running:
            running.run(units, time.time() + until_s)
        return json.loads(made.path.read_text())

    return run


def names(data):
    return sorted(f"{row['name']}" for row in data["correct"])


def test_what_one_process_does_to_itself_leaves_the_others_their_rows(run_units):
    data = run_units("sound", "raises_in_a_row", "dies_in_a_row", "raises_at_once")
    assert names(data) == ["before", "before", "behind", "behind", "row 0", "row 1", "row 2"]
    errors = {e["unit"]: e for e in data["errors"]}
    assert set(errors) == {"raises_in_a_row", "dies_in_a_row"}
    broken = errors["raises_in_a_row"]
    assert broken["name"] == "broken" and broken["why"] == "ValueError: no such kernel"
    assert "gpu_works.py" in broken["trace"]
    assert errors["dies_in_a_row"]["name"] == "deadly" and "SIGSEGV" in errors["dies_in_a_row"]["why"]
    parts = {p["unit"]: p for p in data["parts"]}
    assert {unit: p["rc"] for unit, p in parts.items()} == {
        "sound": 0,
        "raises_in_a_row": 0,
        "dies_in_a_row": 0,
        "raises_at_once": 1,
    }
    # another process went on behind the row
    assert parts["dies_in_a_row"]["restarts"] == 1 and parts["sound"]["restarts"] == 0
    assert "nothing can be made ready" in parts["raises_at_once"]["why"]
    assert verdict.failed_parts(data) == ["correct raises_at_once"]


def test_behind_a_lost_device_another_process_goes_on(run_units):
    data = run_units("loses_the_device_behind_a_row")
    assert names(data) == ["before", "behind"] and data["errors"] == []
    [part] = data["parts"]
    assert (part["rc"], part["restarts"]) == (0, 1)


def test_a_process_that_hangs_is_killed_and_the_file_says_where(run_units):
    data = run_units("hangs_in_a_row", "sound", limit_s=15.0)
    assert names(data) == ["before", "row 0", "row 1", "row 2"]
    [error] = data["errors"]
    assert error["name"] == "endless" and "killed at its limit of 15 s" in error["why"]
    assert {p["unit"]: p["rc"] for p in data["parts"]} == {"hangs_in_a_row": -9, "sound": 0}
    assert verdict.failed_parts(data) == ["correct hangs_in_a_row"]


def test_what_is_cut_for_lack_of_time_is_skipped_and_no_failure(run_units):
    data = run_units("hangs_in_a_row", until_s=15.0)
    assert data["errors"] == [] and [s["name"] for s in data["skipped"]] == ["endless"]
    assert verdict.failed_parts(data) == []
    said = "INCOMPLETE: not run or cut: correct hangs_in_a_row m endless, correct hangs_in_a_row"
    assert verdict.conclusion(data) == said
    data = run_units("sound", until_s=0.0)
    assert data["skipped"][-1]["why"] == "out of time before it began" and names(data) == ["before"]
    assert "m endless, correct sound, correct hangs" in verdict.conclusion(data)


def test_parts_come_in_their_order_and_bring_what_they_need():
    assert plan.chosen_parts(None) == list(PARTS)
    assert plan.chosen_parts(["kernels"]) == ["rates", "kernel-checks", "kernel-bench"]
    assert plan.chosen_parts(["kernel-bench", "decode"]) == ["rates", "decode", "kernel-checks", "kernel-bench"]
    with pytest.raises(KvreproError, match=r"unknown parts \['speed'\]; known are rates, correct"):
        plan.chosen_parts(["speed"])
    stages = list(plan.stages(list(PARTS), Settings(tuple(SHAPES)), ["sample", "append_kv"]))
    first = [units[0].part for is_first, units in stages if is_first]
    assert list(dict.fromkeys(first)) == list(plan.FIRST_PARTS)
    # nothing is timed beside anything else
    together = {part for _, units in stages if len(units) > 1 for part in {u.part for u in units}}
    assert together == {"correct", "warm", "kernel-checks"}
    titles = [unit.title for _, units in stages for unit in units]
    assert len(set(titles)) == len(titles)
    off = [u.environment for _, units in stages for u in units if u.environment]
    assert off == [{"KVREPRO_PDL": "0"}] * 2


def test_every_unit_names_a_work_that_exists():
    from importlib import import_module

    for _, units in plan.stages(list(PARTS), GPU, ["sample"]):
        for unit in units:
            module, _, function = unit.work.partition(":")
            assert callable(getattr(import_module(module), function)), unit


def test_only_kernels_whose_checks_all_passed_are_timed(tmp_path):
    made = report.Report(tmp_path / "report.json", GPU, {"name": "none"})
    for stem, ok in (("sample", True), ("sample", False), ("append_kv", True), ("compact_slots", True)):
        made.add("checks", {"stem": stem, "case": "a", "ok": ok, "errors": {}})
    made.add("parts", {"part": "kernel-checks", "unit": "compact_slots", "seconds": 1.0, "rc": -9, "why": "killed"})
    made.add("rates", {"kind": "copy", "name": "copy", "bytes_per_s": 2.0})
    assert made.known == {"copy_bytes_per_s": 2.0, "passed": ["append_kv"]}


BARE = """
import sys
# a checkout that is not installed, on a machine without the packages that only grids and notebooks need
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
for name in ("papermill", "math_verify", "psutil", "pandas", "matplotlib", "seaborn", "scipy", "snakemake"):
    sys.modules[name] = None
sys.path.insert(0, "")
import pathlib, pkgutil, kvrepro, kvrepro.bench.gpu
from importlib import import_module
for module in pkgutil.iter_modules(kvrepro.bench.gpu.__path__):
    import_module(f"kvrepro.bench.gpu.{module.name}")
assert pathlib.Path(kvrepro.kernels.__file__).parent == pathlib.Path.cwd() / "kernels", kvrepro.kernels.__file__
from kvrepro.cli import main
from kvrepro.commands.gpu_check import device_row
from kvrepro.runs.provenance import git_revision, package_versions
device_row("cpu"), git_revision(), package_versions()
sys.exit(main(["gpu-check", "--out", sys.argv[1]]))
"""


@without_gpu
def test_it_needs_neither_an_installation_nor_the_packages_of_grids(tmp_path):
    if not (ROOT / "kernels" / "__init__.py").is_file():
        pytest.skip("kvrepro is installed without its checkout")
    command = [sys.executable, "-c", BARE, str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("kvrepro gpu-check: no GPU"), done.stderr[-3000:]


def test_clocks_are_what_the_driver_says(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    tool = tmp_path / "nvidia-smi"

    def said(script):
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        monkeypatch.setattr(clocks, "_last", None)
        return clocks.clocks()

    values = ", ".join(map(str, range(len(clocks.FIELDS))))
    assert said(f"echo '{values}'") == {name: str(i) for i, name in enumerate(clocks.FIELDS)}
    # a driver that does not know the last field is asked for the others
    older = said(f"case $1 in *active*) exit 2;; esac; echo '{values}'")
    assert list(older) == list(clocks.FIELDS[:-1])
    assert said("exit 9") is None
    tool.write_text(f"#!/bin/sh\necho '{values}'\n")
    assert clocks.clocks(max_age_s=0.0) is None
    assert said(f"echo '{os.getpid()}, 9 MiB'; echo '1, 500 MiB'") and clocks.other_processes() == ["500 MiB"]
    # which GPU is asked for
    monkeypatch.setattr(clocks, "_gpu", lambda: "GPU-12")
    assert said("echo $3")["driver_version"] == "--id=GPU-12"
    done = []
    assert clocks.clocks_under_load(lambda: done.append(1))["driver_version"] == "--id=GPU-12" and done


def test_arguments_have_defaults():
    parser = argparse.ArgumentParser()
    gpu_check.add_arguments(parser)
    args = parser.parse_args(["--out", "x"])
    assert tuple(args.models) == tuple(SHAPES) and args.rows == 20 and args.limit_s < 600
    said = parser.format_help()
    assert all(f"  {part} " in said for part in PARTS) and said.count("(default: ") == 4


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_leaves_the_threads_of_the_check_alone():
    say = "PYTHON=sh -c 'echo threads=$${OMP_NUM_THREADS-unset}'"
    done = subprocess.run(["make", "-s", "gpu-check", say], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "threads=unset"
