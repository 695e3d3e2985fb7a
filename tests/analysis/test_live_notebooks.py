"""Notebooks that read committed numbers by default do the whole work where they are told to."""

from __future__ import annotations

import json

import pytest

from kvrepro.paths import project_root, results_root
from kvrepro.runs.notebooks import execute_notebook
from kvrepro.runs.profiles import load_profile

from ..cells import HAS_MODEL

pytestmark = pytest.mark.skipif(not HAS_MODEL, reason="weights of tiny-r1-llama are missing; `kvrepro train-tiny`")


def outputs(path):
    """Text of every output, and the streams that were written to."""
    found = [output for cell in json.loads(path.read_text())["cells"] for output in cell.get("outputs", [])]
    texts = ["".join(o.get("text", []) or o.get("data", {}).get("text/plain", [])) for o in found]
    return texts, {o["name"] for o in found if o["output_type"] == "stream"}


def test_the_main_table_runs_what_is_missing_and_reads_it(tmp_path):
    target = tmp_path / "out.ipynb"
    execute_notebook(
        project_root() / "notebooks" / "main_table.ipynb", target, {"profile": "smoke", "run_missing": True}
    )
    texts, streams = outputs(target)
    assert all((folder.path / "manifest.json").is_file() for folder in load_profile("smoke").folders)
    assert any(f"5 of 5 cells are done, in {results_root() / 'smoke'}" in text for text in texts)
    assert "4 problems say nothing about the order of 4 methods." in texts[-1]
    assert "dynts minus random: +0.0 points [-60.2, +60.2]; 4 problems say nothing." in texts[-1]
    # a notebook shows what comes on stderr as an error
    assert streams == {"stdout"}
    assert (results_root() / "smoke" / "figures" / "average.png").is_file()


def test_fidelity_measures_here_without_a_committed_table(tmp_path):
    target = tmp_path / "out.ipynb"
    chosen = {"committed": "", "methods": "window,oracle_future", "budgets": "144", "n_problems": 2}
    execute_notebook(project_root() / "notebooks" / "fidelity.ipynb", target, chosen)
    texts, streams = outputs(target)
    folder = results_root() / "fidelity"
    assert any(f"Measured here or before, 2 cells in {folder}." in text for text in texts)
    assert "tiny-r1-llama, chain-12, 144 slots" in texts[-1] and "oracle_future 0" in texts[-1].replace("<", "")
    assert not streams - {"stdout"}
    assert {"table-tiny-r1-llama-chain-12.csv", "curves-tiny-r1-llama-chain-12.png"} <= {
        p.name for p in folder.iterdir()
    }
