"""The wheel, away from any checkout: it has every module, runs a cell, and writes into the current folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from kvrepro.paths import PACKAGE

ROOT = PACKAGE.parent
PARTS = (
    "kvrepro",
    "kernels",
    "notebooks",
    "nbs_params",
    "profiles",
    "measurements",
    "tests/cases",
    "pyproject.toml",
    "setup.py",
    "README.md",
    "LICENSE",
    "Snakefile",
    "constraints.txt",
)
CELL = ("model=tiny-r1-llama", "benchmark=chain-12", "n_problems=1", "max_new_tokens=8")
pytestmark = [
    pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="kvrepro is installed without its checkout"),
    pytest.mark.skipif(int(version("setuptools").split(".")[0]) < 77, reason="pyproject.toml needs setuptools 77"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the unpacked wheel, made from a copy of the checkout, which stays as it is."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".ipynb_checkpoints")
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copyfile(ROOT / name, source / name)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", build, str(site)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = site.glob("kvrepro-*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return site


@pytest.fixture
def call(site, tmp_path):
    """Run Python on the unpacked wheel from an empty folder: its standard output."""

    def run(*arguments: str) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KVREPRO_")}
        environment |= {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


def test_the_wheel_holds_every_module_and_nothing_else_of_the_checkout(site):
    packed = {path.relative_to(site / "kvrepro") for path in (site / "kvrepro").rglob("*.py")}
    modules = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")}
    kernels = {Path("kernels") / path.relative_to(ROOT / "kernels") for path in (ROOT / "kernels").rglob("*.py")}
    assert packed == modules | kernels
    assert not (site / "kernels").exists() and not (site / "tests").exists()


def test_its_profiles_and_kernels_are_its_own(site, call):
    assert {row["name"] for row in json.loads(call("-m", "kvrepro", "list", "profiles", "--json"))["profiles"]} >= {
        "smoke",
        "tiny",
        "paper",
    }
    where = (
        "import kvrepro.kernels, kvrepro.paths; print(kvrepro.kernels.__file__); print(kvrepro.project_root()); "
        "print(kvrepro.paths.committed_summary('tiny'))"
    )
    assert call("-c", where).split() == [
        str(site / "kvrepro" / "kernels" / "__init__.py"),
        str(site / "kvrepro" / "project"),
        str(site / "kvrepro" / "project" / "notebooks" / "images" / "tiny-summary.csv"),
    ]


def test_the_default_grid_is_planned(call):
    assert json.loads(call("-m", "kvrepro", "grid", "tiny", "--dry-run", "--json"))["cells"] == 48


@pytest.mark.slow
@pytest.mark.model
def test_a_cell_runs_and_writes_into_the_current_folder(call, tmp_path):
    values = [part for value in CELL for part in ("--set", value)]
    result = json.loads(call("-m", "kvrepro", "run", *values, "--json"))
    assert Path(result["folder"]).is_relative_to(tmp_path / "results" / "single")
    assert result["score"]["n_problems"] == 1
