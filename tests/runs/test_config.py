"""`CellConfig`: strict about names, types and ranges; its hash moves with every field and with nothing else."""

from __future__ import annotations

import dataclasses
import re

import pytest

from kvrepro.errors import KvreproError, UnknownNameError
from kvrepro.models.table import MODELS
from kvrepro.runs.config import FIELD_NAMES, CellConfig

BASE = {"model": "tiny-r1-llama", "benchmark": "chain-12"}
DYNTS = {**BASE, "method": "dynts", "budget": 192, "window": 32, "ratio": 0.75}


def test_unknown_parameter_lists_every_valid_name():
    with pytest.raises(UnknownNameError, match="unknown parameter 'temprature'") as caught:
        CellConfig.from_mapping({**BASE, "temprature": 0.5})
    assert all(name in str(caught.value) for name in FIELD_NAMES)


@pytest.mark.parametrize(
    ("field", "known"),
    [
        ("model", ("tiny-r1-llama", "tiny-r1-qwen", "r1-llama", "r1-qwen")),
        ("benchmark", ("chain-12", "chain-23", "sum-16", "choice-18")),
        ("method", ("full", "window", "question_window", "random", "dynts")),
    ],
)
def test_unknown_model_benchmark_or_method_lists_the_valid_ones(field, known):
    with pytest.raises(UnknownNameError, match=f"unknown {field} 'nonsense'") as caught:
        CellConfig.from_mapping({**DYNTS, field: "nonsense"})
    assert all(name in str(caught.value) for name in known)


@pytest.mark.parametrize("missing", ["model", "benchmark"])
def test_model_and_benchmark_are_required_by_name(missing):
    with pytest.raises(KvreproError, match=f"'{missing}' is missing"):
        CellConfig.from_mapping({k: v for k, v in BASE.items() if k != missing})


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("n_samples", 2.0, "expected int"),
        ("n_samples", "2", "expected int"),
        ("n_samples", True, "expected int"),
        ("n_samples", None, "expected int"),
        ("budget", 192.0, "expected int"),
        ("ratio", "0.5", "expected float"),
        ("temperature", True, "expected float"),
        ("model", 3, "expected str"),
        ("method", None, "expected str"),
        ("n_problems", [1], "expected int"),
        ("predictor", 1, "expected str"),
    ],
)
def test_a_value_of_the_wrong_type_names_parameter_value_and_type(name, value, wanted):
    with pytest.raises(KvreproError, match=wanted) as caught:
        CellConfig.from_mapping({**DYNTS, name: value})
    assert f"{name}={value!r} is {type(value).__name__}" in str(caught.value)


def test_yaml_float_trap_gets_a_hint():
    with pytest.raises(KvreproError, match=re.escape("write 1.0e-3, not 1e-3")):
        CellConfig.from_mapping({**BASE, "temperature": "1e-3"})
    with pytest.raises(KvreproError) as caught:
        CellConfig.from_mapping({**BASE, "n_samples": "1e-3"})
    assert "1.0e-3" not in str(caught.value)


def test_integers_pass_as_floats_and_stay_floats():
    config = CellConfig.from_mapping({**DYNTS, "temperature": 1, "ratio": 1})
    assert (config.temperature, config.ratio) == (1.0, 1.0)
    assert isinstance(config.temperature, float)
    assert isinstance(config.ratio, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_problems": 0}, "n_problems=0"),
        ({"n_samples": 0}, "n_samples=0"),
        ({"batch_rows": -1}, "batch_rows=-1"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"top_k": -1}, "top_k=-1"),
        ({"sampling_order": "random"}, "hf, dynts"),
        ({"budget": 0}, "budget=0"),
        ({"budget": -5}, "budget=-5"),
        ({"window": -1}, "window=-1"),
        ({"window": 192}, "budget=192 .*window=192"),
        ({"window": 500}, "budget=192 .*window=500"),
        ({"ratio": 0.0}, "ratio=0.0"),
        ({"ratio": 1.01}, "ratio=1.01"),
        ({"ratio": float("nan")}, "ratio=nan"),
        ({"evict_every": 0, "ratio": None}, "evict_every=0"),
        ({"evict_every": 8}, "evict_every=8: dynts as published"),
        ({"protocol": "fair"}, "ratio=0.75 in protocol 'fair'"),
        ({"protocol": "mine"}, "known are fair, as_published"),
        ({"options": {"budget": 3}}, "options may not hold budget"),
        ({"options": {"sinks": [3]}}, r"option sinks of method dynts=\[3\] is list"),
        ({"pin_overflow": "drop"}, "error, keep_first"),
        ({"budget": None}, "'dynts' needs a budget"),
        ({"method": "full"}, "never evicts.*budget=192"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_numbers(values, message):
    with pytest.raises(KvreproError, match=message):
        CellConfig.from_mapping({**DYNTS, **values})


@pytest.mark.parametrize("option", [{"window": 32}, {"ratio": 0.5}, {"evict_every": 8}])
def test_full_refuses_options_that_mean_nothing_to_it(option):
    with pytest.raises(KvreproError, match=next(iter(option))):
        CellConfig.from_mapping({**BASE, "method": "full", **option})


def test_a_ratio_of_one_and_a_budget_just_above_the_window_are_allowed():
    config = CellConfig.from_mapping({**DYNTS, "ratio": 1.0, "window": 191})
    assert (config.ratio, config.window) == (1.0, 191)


def test_the_constructor_is_as_strict_as_from_mapping():
    # the cell notebook calls the constructor, with whatever type a YAML file or the papermill command line gave
    with pytest.raises(KvreproError, match="n_samples"):
        CellConfig(**{**DYNTS, "n_samples": "2"})


def test_cell_id_is_model_benchmark_method_budget_and_hash():
    config = CellConfig.from_mapping(DYNTS)
    assert config.cell_id == f"tiny-r1-llama/chain-12/dynts-192/{config.hash8}"
    full = CellConfig.from_mapping(BASE)
    assert full.cell_id == f"tiny-r1-llama/chain-12/full-none/{full.hash8}"


def test_cell_id_of_a_model_folder_uses_its_name_alone(tmp_path):
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model" / "config.json").write_text("{}")
    config = CellConfig.from_mapping({**BASE, "model": f"{tmp_path}/my-model/"})
    assert config.cell_id.startswith("my-model/chain-12/full-none/")


def test_resolved_holds_every_field_in_order_and_the_config_is_frozen():
    config = CellConfig.from_mapping(DYNTS)
    assert tuple(config.resolved()) == FIELD_NAMES
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.budget = 1


def test_every_table_model_builds_a_config():
    for name in MODELS:
        assert CellConfig.from_mapping({**BASE, "model": name}).model == name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt_style": "deepseek"}, "chain-12 is written in the tiny models' own language"),
        ({"prompt_style": "nonsense"}, "unknown prompt_style 'nonsense'; known: deepseek, dynts"),
        ({"n_problems": 101}, "n_problems=101: chain-12 has 100"),
    ],
)
def test_requests_that_the_benchmark_cannot_meet(values, message):
    with pytest.raises(KvreproError, match=message):
        CellConfig.from_mapping({**DYNTS, **values})


def test_a_model_folder_counts_by_its_content_and_not_by_the_way_it_is_named(tmp_path, monkeypatch):
    import shutil

    from kvrepro.paths import CHECKPOINTS

    shutil.copytree(CHECKPOINTS / "tiny-r1-llama", tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    relative = CellConfig.from_mapping({**DYNTS, "model": "./mine"})
    absolute = CellConfig.from_mapping({**DYNTS, "model": str(tmp_path / "mine")})
    assert relative == absolute
    assert relative.model == str(tmp_path / "mine")
    assert relative.cell_id.startswith("mine/chain-12/")
