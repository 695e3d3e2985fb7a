"""`kvrepro gpu-check`: refuses without a GPU; the parts that measure decoding run on a CPU in small."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pytest
import torch
from transformers import LlamaConfig

from kvrepro.bench import gpu as gpu_decode
from kvrepro.bench.gpu import mean_ms, with_bound
from kvrepro.cli import main
from kvrepro.commands import gpu_check
from kvrepro.errors import UnknownNameError
from kvrepro.models.shapes import SHAPES, build, true_shape, weight_bytes
from kvrepro.paths import PACKAGE

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so the command would run")


@without_gpu
def test_without_a_gpu_nothing_is_measured(tmp_path, capsys):
    assert main(["gpu-check", "--out", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert "kvrepro gpu-check: no GPU" in captured.err and "`make test` proves the kernels" in captured.err
    assert not captured.out and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "gigabytes", "kib_per_slot"), [("r1-llama-8b", 15.0, 128), ("r1-qwen-7b", 14.1, 56)])
def test_shapes_are_those_of_the_published_models(name, gigabytes, kib_per_slot):
    """The sizes that the bounds of the published shapes are derived from."""
    model = build(true_shape(name), "meta", "bfloat16")
    assert round(weight_bytes(model, of_a_step=True) / 1e9, 1) == gigabytes
    shape = gpu_decode.CacheShape.of(model.config)
    assert 2 * 2 * shape.layers * shape.kv_heads * shape.head_dim == kib_per_slot * 1024
    assert shape.head_dim == 128


def test_an_unknown_shape_is_named():
    with pytest.raises(UnknownNameError, match="r1-llama-8b, r1-qwen-7b"):
        true_shape("llama")


def test_time_over_a_cycle_is_the_mean_over_its_lengths():
    assert mean_ms([10, 20, 40], [1.0, 2.0, 4.0]) == pytest.approx(2.5)
    assert mean_ms([10], [3.0]) == 3.0


def test_the_bound_is_memory_over_the_copy_rate():
    row = dict(bytes_per_slot=128 * 1024, rows=20, mean_slots=2325.5, decode_tps=2000.0)
    found = with_bound(row, round(15.0e9), 3.0e12)
    # by hand: 7.0 ms per step for R1-Llama-8B at C=2500
    assert 20 / found["bound_tps"] * 1e3 == pytest.approx(7.0, abs=0.05)
    assert found["fraction_of_bound"] == pytest.approx(2000 / found["bound_tps"])


class Recorded(gpu_check.Report):
    """A report without a GPU."""

    def __init__(self, path):
        self.started, self.limit_s, self.deadline, self.path = 0.0, 1e12, float("inf"), path
        self.data = {"checks": [], "kernels": [], "decode": [], "skipped": [], "errors": []}


@pytest.fixture
def small(monkeypatch):
    """The command's own sequence of rows over a model of two layers and budgets of two digits."""
    sizes = dict(
        vocab_size=230,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    monkeypatch.setattr(gpu_decode, "true_shape", lambda name: LlamaConfig(**sizes))
    monkeypatch.setattr(gpu_decode, "largest_batch", lambda model, capacity: 3)
    monkeypatch.setattr(gpu_decode, "BUDGETS", (60, 90))
    monkeypatch.setattr(gpu_decode, "OTHER_BUDGET", 90)
    monkeypatch.setattr(gpu_decode, "WINDOW", 40)
    monkeypatch.setattr(gpu_decode, "LONGEST", 144)


@pytest.mark.filterwarnings("ignore:this method reads the attention of every step")
def test_every_decode_row_of_the_command_runs(small, tmp_path, capsys):
    report = Recorded(tmp_path / "report.json")
    gpu_decode.decode_rows("r1-llama-8b", 2, 1e10, report.part, device="cpu")
    assert report.data["errors"] == [] and report.data["skipped"] == []
    rows = json.loads(report.path.read_text())["decode"]
    assert (
        len(rows) == len(capsys.readouterr().out.splitlines()) == 2 + 1 + 2 + 2 + len(gpu_decode.OTHER_METHODS) + 1 + 4
    )
    for row in rows:
        assert row["decode_tps"] > 0 and all(ms > 0 for ms in row["step_ms"])
        if "budget_tokens" in row:
            assert row["period_steps"] > 0 and row["kept_tokens"] <= row["step_lengths"][0]
            assert 0 < row["eviction_share"] < 1 and row["fraction_of_bound"] > 0
    assert {row["method"] for row in rows} == {"dynts", "full", "eager", "generate", *gpu_decode.OTHER_METHODS}


def test_what_breaks_or_comes_too_late_is_said(tmp_path, capsys):
    def broken():
        raise RuntimeError("no such kernel")

    report = Recorded(tmp_path / "report.json")
    report.part("broken", broken, model="m")

    def too_large():
        raise torch.cuda.OutOfMemoryError("x")

    report.part("large", too_large, model="m")
    report.share_time(1)
    report.deadline = 0.0
    report.part("late", too_large, model="m")
    assert [e["why"] for e in report.data["errors"]] == ["RuntimeError: no such kernel"]
    assert [s["why"].split(":")[0] for s in report.data["skipped"]] == ["out of memory", "out of time"]


BARE = """
import sys
# a checkout that is not installed, on a machine without the packages that only grids and notebooks need
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
for name in ("papermill", "math_verify", "psutil", "pandas", "matplotlib", "seaborn", "scipy", "snakemake"):
    sys.modules[name] = None
sys.path.insert(0, "")
import pathlib, kvrepro, kvrepro.bench.gpu, kvrepro.models.shapes
import kvrepro.methods.learned.importance, kvrepro.kernels.bench
assert pathlib.Path(kvrepro.kernels.__file__).parent == pathlib.Path.cwd() / "kernels", kvrepro.kernels.__file__
from kvrepro.cli import main
from kvrepro.commands.gpu_check import clocks
from kvrepro.runs.provenance import git_revision, package_versions
clocks(), git_revision(), package_versions()
sys.exit(main(["gpu-check", "--out", sys.argv[1]]))
"""


@without_gpu
def test_it_needs_neither_an_installation_nor_the_packages_of_grids(tmp_path):
    root = PACKAGE.parent
    if not (root / "kernels" / "__init__.py").is_file():
        pytest.skip("kvrepro is installed without its checkout")
    command = [sys.executable, "-c", BARE, str(tmp_path / "out")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("kvrepro gpu-check: no GPU"), done.stderr[-3000:]


@pytest.mark.parametrize("rows", [0, 5])
def test_a_batch_that_does_not_fit_says_what_does(rows, monkeypatch):
    class Model:
        device = torch.device("cuda" if rows else "cpu")

    monkeypatch.setattr(gpu_decode, "largest_batch", lambda model, capacity, most: 3)
    with pytest.raises(gpu_decode.TooLargeError, match="5 rows of 90 slots do not fit.*; 3 do" if rows else "not even"):
        gpu_decode.engine_loop(Model(), None, rows, 90)


def test_arguments_have_defaults():
    parser = argparse.ArgumentParser()
    gpu_check.add_arguments(parser)
    args = parser.parse_args(["--out", "x"])
    assert tuple(args.models) == tuple(SHAPES) and args.rows == 20 and args.limit_s < 480


def test_whatever_breaks_in_a_row_is_recorded_and_the_next_row_runs(tmp_path):
    report = Recorded(tmp_path / "report.json")

    class OutOfResourcesError(Exception):
        """As Triton's: no RuntimeError."""

    def broken():
        raise OutOfResourcesError("shared memory, Required: 300000, Hardware limit: 232448")

    report.part("first", broken, model="m")
    row = {"rows": 1, "decode_tps": 2.0, "step_lengths": [3], "step_ms": [4.0]}
    report.part("second", lambda: row, model="m")
    data = json.loads(report.path.read_text())
    (error,) = data["errors"]
    assert error["name"] == "first" and error["why"].startswith("OutOfResourcesError: shared memory")
    assert [r["name"] for r in data["decode"]] == ["second"]
