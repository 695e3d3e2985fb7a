"""Tables of docs/ that repeat what the code says, held to the code."""

from __future__ import annotations

import re

import pytest

from kvrepro.benchmarks.sources import REAL_BENCHMARKS
from kvrepro.graders.score import STATUSES
from kvrepro.methods.budgets import Schedule
from kvrepro.methods.table import METHODS, create_schedule, method_class
from kvrepro.paths import PACKAGE
from kvrepro.scores.known_scores import known_scores
from kvrepro.training.importance.recipe import PredictorRecipe, published_recipe

from .test_pointers import anchors

DOCS = PACKAGE.parent / "docs"


def tables(page: str) -> list[list[list[str]]]:
    """The tables of a page, each a list of rows of cells without backticks, the head first."""
    found = re.findall(r"(?:^\|.*\|\n)+", (DOCS / page).read_text(), re.MULTILINE)
    rows = [[line.strip("|").split("|") for line in table.splitlines()] for table in found]
    return [[[cell.strip().replace("`", "") for cell in row] for row in (t[0], *t[2:])] for t in rows]


def table_of(page: str, *head: str) -> list[list[str]]:
    """The rows of the one table with this head, the head left out."""
    (found,) = [table[1:] for table in tables(page) if tuple(table[0]) == head]
    return found


def test_the_overview_of_methods_agrees_with_the_registry():
    rows = table_of("methods.md", "name", "scores a slot by", "budget as published", "needs", "cost", "source")
    assert [row[0] for row in rows] == list(METHODS), "one row per method, in the order of METHODS"
    for name, _, _, needs, _, source in rows:
        cls = method_class(name)
        assert (needs, source) == (", ".join(cls.needs) or "-", cls.source), name


def test_every_method_has_its_section():
    missing = set(METHODS) - anchors((DOCS / "methods.md").read_text())
    assert not missing, f"docs/methods.md has no heading for {sorted(missing)}"


def test_sizes_of_dynts_rule():
    rows = table_of(
        "budgets.md", "C / W / rho", "n", "kept", "first eviction after a prompt of 200, step from 0", "period"
    )
    for sizes, *numbers in rows:
        budget, window, ratio = sizes.split(" / ")
        schedule = Schedule(int(budget), int(window), float(ratio))
        peak = schedule.peak_tokens
        assert numbers == [str(n) for n in (peak, schedule.kept_tokens, peak - 200 - 1, schedule.period_steps)], sizes


def test_published_settings_and_what_they_keep():
    for _, *settings in table_of("budgets.md", "benchmark", "R1-Llama", "R1-Qwen"):
        for setting in settings:
            budget, window, ratio, kept = re.fullmatch(r"(\d+) / (\d+) / ([\d.]+), keeps (\d+)", setting).groups()
            assert Schedule(int(budget), int(window), float(ratio)).kept_tokens == int(kept)


def test_window_and_period_of_every_method_whose_budget_remains():
    stated = {
        name: (int(period if window == "the period" else window), int(period))
        for names, window, period in table_of("budgets.md", "method", "window", "period")
        for name in names.split(", ")
    }
    for name, (window, every) in stated.items():
        schedule = create_schedule(name, 2000, protocol="as_published")
        assert (schedule.window, schedule.evict_every, schedule.kept_tokens) == (window, every, 2000), name
    ruled = {n for n, entry in METHODS.items() if n != "full" and entry.published.__qualname__.startswith("remains")}
    assert set(stated) == ruled


@pytest.mark.parametrize("column", [1, 2], ids=["published", "best"])
def test_training_settings(column):
    rows = {row[0]: row[column] for row in table_of("predictor.md", "", "published", "best")}
    recipe = [None, published_recipe("r1-qwen"), PredictorRecipe()][column]
    assert rows["alpha, tau"] == f"{recipe.alpha:g}, {recipe.tau:g}"
    assert rows["pairs per trace"].replace(",", "") == ("all" if recipe.pairs is None else str(recipe.pairs))
    assert rows["epochs"].startswith(f"{recipe.epochs},")
    assert rows["traces per step"].split()[0] == str(recipe.batch_traces)
    assert float(rows["learning rate"].split(",")[0]) == recipe.lr
    assert rows["label map, dtype"].endswith(recipe.label_dtype)


def test_reference_files_of_the_published_sets():
    rows = table_of("benchmarks.md", "file", "SHA-256", "public source of the reference")
    stated = {row[0].removesuffix(".jsonl"): row[1] for row in rows}
    assert stated == {n: b.reference_sha256 for n, b in REAL_BENCHMARKS.items() if b.reference_sha256}


def test_published_sets():
    rows = table_of("benchmarks.md", "name", "problems", "Hub id, config, split", "kind", "golds")
    for name, count, source, kind, _ in rows:
        entry = REAL_BENCHMARKS[name]
        assert (int(count), source.split(",")[0], kind) == (entry.n_problems, entry.source, entry.kind)
    assert [row[0] for row in rows] == list(REAL_BENCHMARKS)


def test_every_known_score_is_on_the_page():
    (table,) = [t for t in tables("benchmarks.md") if t[0] == ["set", "R1-Qwen", "R1-Llama", "source"]]
    columns = {"r1-qwen": 1, "r1-llama": 2}
    for score in known_scores():
        stated = " ".join(row[columns[score.model]] for row in table[1:])
        assert f"{score.score:g}" in stated or f"{score.score:.1f}" in stated, score


def test_statuses_of_a_graded_reply():
    assert [row[0] for row in table_of("grading.md", "status", "meaning", "counts as")] == list(STATUSES)
