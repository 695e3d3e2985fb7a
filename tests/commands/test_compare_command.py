"""`kvrepro compare` for real, on two short problems: a class of one's own beside a method, run once and read back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kvrepro.paths import results_root
from kvrepro.runs.profiles import comparison_names, load_profile

pytestmark = pytest.mark.slow
SOURCE = """
import kvrepro


class Mine(kvrepro.EvictionMethod):
    name = "mine"
    pin_question: bool = True

    def score(self, view):
        return view.positions.float()
"""


def compare(folder: Path, *more: str) -> subprocess.CompletedProcess:
    sizes = ("--budget", "90", "--window", "16", "--n-problems", "2", "--max-new-tokens", "40", "--cores", "1")
    words = [sys.executable, "-m", "kvrepro", "compare", "mine.py:Mine", "random", *sizes, *more]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)


def test_a_comparison_runs_once_is_read_back_and_an_edited_file_is_another_cell(tmp_path):
    (tmp_path / "mine.py").write_text(SOURCE)
    first = compare(tmp_path)
    assert "2 problems x 1, the same for every method" in first.stdout
    assert "\nbudget 90: window 16, evict_every 11\n" in first.stdout
    assert re.search(r"^mine minus random: .*; 2 problems say nothing\.$", first.stdout, re.MULTILINE)
    [name] = comparison_names()
    folder = results_root() / name
    assert f"page: {folder / 'index.html'}" in first.stdout
    assert "mine" in (folder / "index.html").read_text()
    assert (folder / "comparison.ipynb").is_file()
    profile = load_profile(name)
    assert all(cell.is_complete for cell in profile.folders)
    written = [(cell.path / "manifest.json").stat().st_mtime_ns for cell in profile.folders]

    again = json.loads(compare(tmp_path, "--json").stdout)
    assert [row["label"] for row in again["table"]] == ["full", "mine", "random"]
    assert (again["cells"], again["done"], again["profile"]) == (3, 3, name)
    assert len(again["sentences"]) >= 3
    assert [(cell.path / "manifest.json").stat().st_mtime_ns for cell in profile.folders] == written, "read back"

    (tmp_path / "mine.py").write_text(SOURCE.replace("return view", "return -view"))
    shown = compare(tmp_path, "--dry-run").stdout
    assert "3 cells, 1 to run" in shown
    assert load_profile(name).cells[1].cell_id != profile.cells[1].cell_id
    assert load_profile(name).cells[2] == profile.cells[2]


def test_a_planned_cell_whose_file_changed_since_is_refused(tmp_path, call):
    from kvrepro.runs.comparisons import write_comparison

    (tmp_path / "mine.py").write_text(SOURCE)
    sizes = {"n_problems": 2, "max_new_tokens": 40}
    profile = write_comparison([f"{tmp_path / 'mine.py'}:Mine"], "tiny-r1-llama", "chain-12", [90], window=16, **sizes)
    cell = profile.cells[1]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"cells": {cell.cell_id: {"config": cell.resolved()}}}))
    (tmp_path / "mine.py").write_text(SOURCE + "# edited\n")
    code, _, error = call("run", "--profile", profile.name, "--cell", cell.cell_id, "--planned", str(plan))
    assert code == 2
    assert f"{cell.cell_id} is tiny-r1-llama/chain-12/mine-90/" in error
    assert "changed since the grid began; start it again" in error
    assert not (results_root() / profile.name / cell.cell_id).exists()
