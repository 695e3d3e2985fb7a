"""What a cell's name depends on: everything that changes its tokens, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from kvrepro import paths
from kvrepro.benchmarks.sources import REAL_BENCHMARKS
from kvrepro.benchmarks.table import benchmark_entry
from kvrepro.methods.table import METHODS, method_class
from kvrepro.models.identity import model_identity
from kvrepro.models.table import MODELS, model_entry
from kvrepro.runs.config import CellConfig

FILES = {
    "config.json": "{}",
    "generation_config.json": "{}",
    "tokenizer_config.json": "{}",
    "tokenizer.json": "{}",
    "special_tokens_map.json": "{}",
    "chat_template.jinja": "a",
    "additional_chat_templates/tool.jinja": "a",
    "merges.txt": "a b",
    "tokenizer.model": "a",
    "model.safetensors": "w",
    "README.md": "card",
    "training.json": "{}",
    "scores.json": "{}",
    "model.safetensors.index.json": '{"weight_map": {}}',
    "importance/card.json": "{}",
    "LICENSE.txt": "free",
}
NO_TOKENS = {
    "README.md",
    "training.json",
    "scores.json",
    "model.safetensors.index.json",
    "importance/card.json",
    "LICENSE.txt",
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A checkpoint folder by name only: identities read its files and load nothing."""
    place = tmp_path / "model"
    for name, text in FILES.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Sets the user's model table."""

    def write(text: str) -> None:
        (tmp_path / "models.yaml").write_text(text)
        monkeypatch.setenv("KVREPRO_MODELS", str(tmp_path / "models.yaml"))

    return write


def cell(model, method: str = "full", **values) -> str:
    budget = {} if method == "full" else {"budget": 192}
    return CellConfig(model=str(model), benchmark="chain-12", method=method, **budget, **values).hash8


@pytest.mark.parametrize("name", FILES)
def test_every_file_that_changes_tokens_changes_the_cell_and_no_other_does(folder, name):
    before = cell(folder)
    (folder / name).write_text(FILES[name] + " ")
    assert (cell(folder) == before) == (name in NO_TOKENS)


def test_a_template_in_another_place_is_another_file(folder):
    before = cell(folder)
    (folder / "chat_template.jinja").rename(folder / "additional_chat_templates" / "chat_template.jinja")
    assert cell(folder) != before


@pytest.mark.parametrize(
    "field",
    ["think_end: </done>", "think_end: null", "think_start: <begin>", "open_thought: template", "dtype: float16"],
)
def test_every_field_of_a_row_that_changes_tokens_changes_the_cell(folder, rows, field):
    found = set()
    for text in ("", f", {field}"):
        rows(f"mine: {{source: {folder}{text}}}\n")
        found.add(cell("mine"))
    assert len(found) == 2


@pytest.mark.parametrize(
    "field", ["title: Mine", "generation: {top_k: 3}", "open_thought: always", "think_start: <think>"]
)
def test_fields_that_change_nothing_leave_the_cell_alone(folder, rows, field):
    found = set()
    for text in ("", f", {field}"):
        rows(f"mine: {{source: {folder}{text}}}\n")
        found.add(cell("mine"))
    assert len(found) == 1


def test_separators_count_for_the_methods_that_read_them(folder, rows):
    for method in METHODS:
        assert METHODS[method].reads_separators == ("separators" in method_class(method).needs), method
    found = {}
    for text in ("", ", separators: ['.']", ", separators: ['.', ';']"):
        rows(f"mine: {{source: {folder}{text}}}\n")
        for method in ("sepllm", "rkv"):
            found.setdefault(method, set()).add(cell("mine", method))
    assert {method: len(hashes) for method, hashes in found.items()} == {"sepllm": 3, "rkv": 1}


def test_a_shipped_row_is_identified_by_what_the_user_changed_in_it(rows):
    plain = {name: model_identity(entry) for name, entry in MODELS.items() if name.startswith(("r1", "qwen3"))}
    assert all(set(found) == {"weights"} for found in plain.values())
    rows("r1-qwen: {open_thought: template}\nqwen3-8b: {title: Q}\n")
    assert model_identity(model_entry("r1-qwen"))["row"] == {"thought": ("<think>", "</think>", "template")}
    assert model_identity(model_entry("qwen3-8b")) == plain["qwen3-8b"]


def test_models_of_the_hub_and_fetched_ones_keep_their_names():
    """Recorded before files and rows counted: nothing that these cells cover has changed."""
    recorded = {
        ("r1-llama", "full"): "a9bb1d26",
        ("r1-llama", "rkv"): "72c5bdb3",
        ("smollm2-135m", "full"): "2130c3eb",
        ("org/some-model@v1", "rkv"): "99f77b63",
    }
    assert {key: cell(*key) for key in recorded} == recorded


def test_a_method_whose_tokens_changed_has_new_cells(monkeypatch):
    before = cell("r1-llama", "rkv")
    changed = dataclasses.replace(METHODS["rkv"], revision=METHODS["rkv"].revision + 1)
    monkeypatch.setitem(METHODS, "rkv", changed)
    assert cell("r1-llama", "rkv") != before


def test_rows_on_this_machine_that_are_not_the_reference_count(tmp_path, monkeypatch):
    def name() -> str:
        return CellConfig(model="r1-llama", benchmark="aime24").hash8

    monkeypatch.delenv("KVREPRO_DATA", raising=False)
    published = name()
    monkeypatch.setenv("KVREPRO_DATA", str(tmp_path))
    assert paths.data_dir() == tmp_path
    # the folder has no such file: the rows will come from elsewhere, or not at all
    assert name() == published
    found = set()
    for answer in ("1", "2"):
        (tmp_path / "aime24.jsonl").write_text(json.dumps({"id": "a", "problem": "?", "answer": answer}))
        found.add(name())
    assert len(found | {published}) == 3
    digest = hashlib.sha256((tmp_path / "aime24.jsonl").read_bytes()).hexdigest()
    entry = dataclasses.replace(benchmark_entry("aime24"), reference_sha256=digest)
    monkeypatch.setitem(REAL_BENCHMARKS, "aime24", entry)
    assert name() == published


def test_the_folder_of_further_templates_is_the_one_that_transformers_reads():
    from transformers.utils.hub import CHAT_TEMPLATE_DIR

    assert f"{CHAT_TEMPLATE_DIR}/tool.jinja" in FILES
