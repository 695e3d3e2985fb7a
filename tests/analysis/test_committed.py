"""Committed cells are found by id, equal the live ones, and are read only where no cell is done."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from kvrepro.analysis.committed import committed_cells, find_cells
from kvrepro.analysis.method_table import average_table, method_table, scored_cells
from kvrepro.errors import KvreproError
from kvrepro.files import write_atomic, write_rows
from kvrepro.paths import project_root, results_root
from kvrepro.runs import summary
from kvrepro.runs.folder import MANIFEST, RECORD_FIELDS, RECORDS
from kvrepro.runs.profiles import load_profile
from kvrepro.runs.runner import run_cell
from kvrepro.runs.summary import problem_means, read_problem_means, write_summary

from ..cells import WINDOW, write_finished

IMAGES = project_root() / "notebooks" / "images"
OWN = {
    "panels": [
        {
            "methods": ["full", "window", {"method": "window", "options": {"pin_question": True}}],
            **{name: value for name, value in WINDOW.items() if name not in ("method", "budget")},
            "budgets": [WINDOW["budget"]],
            "pin_overflow": "keep_first",
            "n_samples": 3,
        }
    ]
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A profile of a project of its own, which has no committed table yet."""
    root = tmp_path / "project"
    (root / "nbs_params").mkdir(parents=True)
    (root / "notebooks" / "images").mkdir(parents=True)
    (root / "notebooks" / "budget_curves.ipynb").write_text("{}")
    (root / "nbs_params" / "own.yaml").write_text(json.dumps(OWN))
    monkeypatch.setenv("KVREPRO_ROOT", str(root))
    return load_profile("own")


def test_what_was_committed_gives_the_numbers_of_the_live_cells(own, monkeypatch, tmp_path):
    for config, folder in zip(own.cells, own.folders, strict=True):
        run_cell(config, folder.path)
        (folder.path / "run.ipynb").write_text("{}")
    live = find_cells(own)
    assert live.source == f"own: 3 of 3 cells are done, in {results_root() / 'own'}."
    images = project_root() / "notebooks" / "images"
    write_summary(own, tmp_path / "written")
    for kind in ("summary", "problems"):
        (tmp_path / "written" / f"{kind}.csv").rename(images / f"own-{kind}.csv")
    assert find_cells(own).source == live.source, "committed numbers are never read beside own ones"
    monkeypatch.setenv("KVREPRO_RESULTS", str(tmp_path / "elsewhere"))
    found = find_cells(own)
    assert found.source.startswith("own: the committed numbers of 3 of 3 cells (notebooks/images/own-summary.csv)")
    assert "`kvrepro grid own` runs them" in found.source and found.title == "own (committed numbers)"
    assert [cell.by_problem for cell in found.cells] == [cell.by_problem for cell in live.cells]
    assert {len(cell.by_problem) for cell in found.cells} == {WINDOW["n_problems"]}
    for table in (method_table, average_table):
        one, other = (table(cells).dropna(axis="columns", how="all") for cells in (live.cells, found.cells))
        pd.testing.assert_frame_equal(one, other, check_dtype=False, rtol=0, atol=1e-4)


def test_cells_of_other_parameters_are_not_found(own):
    images = project_root() / "notebooks" / "images"
    for kind in ("summary", "problems"):
        frame = pd.DataFrame({"cell_id": ["tiny-r1-llama/chain-12/full-none/0000"], "chain-12-000": [1]})
        frame.to_csv(images / f"own-{kind}.csv", index=False)
    assert committed_cells(own) == []
    with pytest.raises(KvreproError, match="no cell of own is done in .*`kvrepro grid own` runs them.*no committed"):
        find_cells(own)


@pytest.mark.parametrize("name", ["tiny-methods", "tiny-ablations"])
def test_all_cells_of_methods_and_ablations_are_committed(name):
    profile = load_profile(name)
    assert scored_cells(profile) == []
    cells = committed_cells(profile)
    assert [cell.config for cell in cells] == list(profile.cells)
    for cell in cells:
        assert len(cell.by_problem) == cell.row["n_problems"]
        mean = 100 * sum(cell.by_problem.values()) / len(cell.by_problem)
        assert cell.row["pass_at_1"] == pytest.approx(mean, abs=1e-4)


def test_the_published_table_of_methods_is_that_of_the_committed_cells():
    table = method_table(committed_cells(load_profile("tiny-methods")))
    published = pd.read_csv(IMAGES / "tiny-methods.csv")
    own = table[published.columns]
    pd.testing.assert_frame_equal(own, published, check_dtype=False, rtol=0, atol=1e-4)


def test_means_of_problems_are_over_samples_and_written_to_their_last_digit(own, tmp_path, monkeypatch):
    rows = [
        dict.fromkeys(RECORD_FIELDS, 0) | {"problem_id": p, "correct": i < n}
        for p, n in (("b", 2), ("a", 3))
        for i in range(3)
    ]
    write_rows(tmp_path / RECORDS, rows)
    write_atomic(tmp_path / MANIFEST, json.dumps({"n_records": len(rows)}))
    means = problem_means(tmp_path)
    assert list(means.items()) == [("b", 2 / 3), ("a", 1.0)]
    monkeypatch.setattr(summary, "problem_means", lambda folder: means)
    write_finished("own", own.cells[0])
    monkeypatch.setattr(summary, "summarise_profile", lambda profile: pd.DataFrame())
    write_summary(own, tmp_path)
    text = (tmp_path / "problems.csv").read_text()
    assert text == f"cell_id,b,a\n{own.cells[0].cell_id},{2 / 3},1\n"
    assert read_problem_means(tmp_path / "problems.csv") == {own.cells[0].cell_id: means}
