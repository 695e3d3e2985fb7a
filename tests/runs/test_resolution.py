"""What a cell comes to before it runs: equal to what the run records, and refused where the run would be."""

from __future__ import annotations

import json

import matplotlib
import pytest

from kvrepro.cli import main
from kvrepro.errors import KvreproError
from kvrepro.files import write_atomic
from kvrepro.methods.declaration import declared_options, option_types
from kvrepro.methods.table import METHODS, method_class
from kvrepro.paths import PACKAGE
from kvrepro.runs.config import FIELD_NAMES, CellConfig
from kvrepro.runs.folder import configs_beside
from kvrepro.runs.profiles import load_profile, profile_names
from kvrepro.runs.resolution import resolve_cell
from kvrepro.runs.runner import run_cell

NOTEBOOK = PACKAGE.parent / "notebooks" / "cell.ipynb"
ORACLES = ("oracle_answer", "oracle_future")
BASE = {"model": "tiny-r1-llama", "benchmark": "chain-12"}


def code_cells() -> list[str]:
    return ["".join(c["source"]) for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == "code"]


def first_cell(**changes) -> dict:
    values: dict = {}
    exec(code_cells()[0], values)
    return {name: values[name] for name in FIELD_NAMES} | changes


def config(**changes) -> CellConfig:
    return CellConfig(**{**BASE, "n_problems": 2, "max_new_tokens": 60, **changes})


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ORACLES])
def test_only_the_method_changed_in_the_first_cell_gives_a_comparable_cell(method):
    cell, left_out = CellConfig.fitted(**first_cell(method=method))
    resolved = resolve_cell(cell)
    values = resolved.values()
    dynts = resolve_cell(CellConfig.fitted(**first_cell())[0]).values()
    if method == "full":
        assert set(left_out) == {"budget", "protocol"}
        assert values["peak_tokens"] == values["prompt_tokens"][1] + values["max_new_tokens"]
    else:
        assert not left_out
        same = ("protocol", "budget", "kept_tokens", "peak_tokens", "evict_every", "n_problems", "max_new_tokens")
        assert {name: values[name] for name in same} == {name: dynts[name] for name in same}
        assert values["protocol"] == "fair"
        assert values["peak_tokens"] == values["budget"] + values["evict_every"]


@pytest.mark.parametrize("method", ORACLES)
def test_an_oracle_is_refused_by_name_before_anything_is_generated(method):
    cell, _ = CellConfig.fitted(**first_cell(method=method))
    with pytest.raises(
        KvreproError, match=f"{method} looks into the future of a finished trace, so it cannot generate"
    ):
        resolve_cell(cell)


@pytest.mark.model
@pytest.mark.parametrize(
    "changes",
    [
        {"method": "rkv"},
        {"method": "full"},
        {"method": "dynts_nolocal", "window": 32},
        {"method": "rpc", "protocol": "as_published", "budget": 64},
        {"method": "h2o_dynts", "protocol": "as_published", "ratio": 0.7, "options": '{"obs_window": 8}'},
        {"method": "snapkv", "options": '{"pin_question": true, "sinks": 2}'},
    ],
    ids=lambda c: c["method"],
)
def test_the_cell_notebook_runs_with_another_method(changes, tmp_path, capsys):
    matplotlib.use("agg")
    parameters, *rest = code_cells()
    names: dict = {}
    exec(parameters, names)
    names |= {"n_problems": 2, "folder": str(tmp_path / "cell"), **changes}
    for code in rest:
        exec(code, names)
    assert names["manifest"]["kv_tokens_peak"] <= names["limit"]
    assert names["config"].method == changes["method"]
    assert names["resolved"].budget_line in capsys.readouterr().out


@pytest.mark.parametrize("profile", profile_names())
def test_nothing_is_left_out_of_a_cell_that_is_one_already(profile):
    for cell in load_profile(profile).cells:
        assert CellConfig.fitted(**cell.resolved()) == (cell, {})


@pytest.mark.parametrize(
    ("values", "left_out"),
    [
        ({"method": "full", "budget": 9, "ratio": 0.5, "options": {"sinks": 4}}, {"budget", "ratio", "options"}),
        ({"method": "rkv", "budget": 400, "ratio": 0.5, "protocol": "as_published"}, {"ratio"}),
        ({"method": "dynts", "budget": 400, "evict_every": 8, "protocol": "as_published"}, {"evict_every"}),
        ({"method": "rpc", "budget": 400, "ratio": 0.5, "evict_every": 8, "protocol": "as_published"}, {"evict_every"}),
        ({"method": "dynts_nolocal", "budget": 400, "window": 32}, {"window"}),
        ({"method": "dynts_nolocal", "budget": 400, "window": 1}, set()),
    ],
)
def test_sizes_that_a_method_does_not_have_are_left_out_and_named(values, left_out):
    cell, found = CellConfig.fitted(**BASE, **values)
    assert found == {name: values[name] for name in left_out}
    assert any(all(n in line for n in left_out) for line in resolve_cell(cell).lines(found, [])) or not left_out


@pytest.mark.parametrize(
    "values",
    [
        # what contradicts itself or does not fit is still refused
        {"method": "dynts", "budget": 192, "ratio": 0.5, "protocol": "fair"},
        {"method": "rkv", "budget": 192, "window": 500},
        {"method": "windw", "budget": 192},
        {"method": "window", "budget": 192, "options": {"obs_window": 4}},
        {"method": "dynts", "budget": 192, "temprature": 1},
    ],
)
def test_fitting_forgives_nothing_else(values):
    with pytest.raises(KvreproError):
        CellConfig.fitted(**BASE, **values)


@pytest.mark.model
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "dynts", "budget": 100, "window": 20, "ratio": 0.9},
        {"method": "rkv", "budget": 90},
        {"method": "window_dynts", "budget": 90, "window": 60, "protocol": "as_published"},
        {"method": "rpc", "budget": 16, "window": 32, "protocol": "as_published"},
        {"method": "sepllm", "budget": 90, "protocol": "as_published"},
        {"method": "window", "budget": 4000},
    ],
    ids=["full", "dynts", "rkv", "window_dynts", "rpc", "sepllm", "roomy"],
)
def test_the_values_are_those_that_the_run_records(tmp_path, changes):
    cell = config(**changes)
    resolved = resolve_cell(cell)
    values, manifest = resolved.values(), run_cell(cell, tmp_path / "cell")
    method = manifest["method"]
    assert values["peak_tokens"] == manifest["stats"]["capacity_tokens"]
    assert manifest["kv_tokens_peak"] <= values["peak_tokens"]
    if resolved.method.schedule is not None:
        assert values["window"] == method["window"]
        assert {name: method[name] for name in values["options"]} == values["options"]
        assert values["protocol"] == method["protocol"] == manifest["config"]["protocol"]
        assert f"protocol {values['protocol']}, budget {cell.budget}" in resolved.budget_line
    # of rows that keep each their own number, neither names one
    for name in ("kept_tokens", "period_steps"):
        assert values.get(name) == method.get(name)
    is_roomy = changes.get("budget") == 4000
    assert ("nothing will be evicted" in resolved.budget_line) == is_roomy
    assert (manifest["evictions"] == 0) == (is_roomy or not changes)
    if manifest["evictions"]:
        assert manifest["kv_tokens_peak"] == values["peak_tokens"] or cell.method == "rpc"


def test_defaults_are_filled_in_and_nothing_is_null():
    values = resolve_cell(config(method="dynts", budget=192)).values()
    assert None not in values.values()
    expected = {"window": 76, "evict_every": 24, "protocol": "fair", "dtype": "float32"}
    # replies of 60 tokens cannot reach the budget
    expected["peak_tokens"] = values["prompt_tokens"][1] + 60
    assert {name: values[name] for name in expected} == expected
    assert values["predictor"].endswith("tiny-r1-llama/importance")
    assert not {"calibration", "judge", "ratio"} & set(values)
    assert resolve_cell(config(n_problems=None)).values()["n_problems"] == 100
    assert resolve_cell(config(method="triattention", budget=192)).values()["calibration"].endswith("query_statistics")


def test_a_model_whose_tokenizer_is_elsewhere_is_resolved_without_its_prompts():
    paper = load_profile("paper").cells[1]
    resolved = resolve_cell(paper)
    if resolved.prompts is not None:
        pytest.skip("the model's tokenizer and rows are on this machine")
    assert resolved.peak_tokens == paper.budget + 1
    assert resolved.values()["prompt_tokens"] == "not counted here"
    full = resolve_cell(load_profile("paper").cells[0])
    assert full.peak_tokens is None
    assert "not counted here" in full.budget_line


def test_a_cell_beside_a_profile_of_another_protocol_says_so(capsys):
    sizes = ("model=tiny-r1-qwen", "benchmark=chain-12", "method=dynts", "budget=184", "window=32")
    items = [part for item in sizes for part in ("--set", item)]
    for more, differs in (([], True), (["--set", "protocol=as_published", "--set", "ratio=0.75"], False)):
        assert main(["run", "--profile", "tiny", *items, *more, "--dry-run"]) == 0
        assert ("NOTE: this cell runs under protocol fair, beside it" in capsys.readouterr().out) == differs


def test_a_cell_beside_finished_ones_of_another_protocol_says_so(tmp_path):
    mine, other = config(method="rkv", budget=192), config(method="dynts", budget=192, window=32, ratio=0.75)
    full, elsewhere = config(), config(benchmark="chain-23", method="dynts", budget=192, ratio=0.75)
    for name, cell in (("a", other), ("b", full), ("c", elsewhere)):
        (tmp_path / name / "x").mkdir(parents=True)
        write_atomic(tmp_path / name / "x" / "manifest.json", json.dumps({"config": cell.resolved()}))
    (tmp_path / "d" / "x").mkdir(parents=True)
    (tmp_path / "d" / "x" / "manifest.json").write_text("cut")
    beside = configs_beside(tmp_path / "mine" / "x")
    assert len(beside) == 3
    note = resolve_cell(mine).protocol_note(beside)
    assert note.startswith("NOTE: this cell runs under protocol fair, beside it dynts at 192 (as_published) did not")
    assert resolve_cell(other).protocol_note(beside) is None
    assert resolve_cell(full).protocol_note(beside) is None


@pytest.mark.parametrize("method", METHODS)
def test_options_read_from_the_source_are_those_of_the_class(method):
    assert declared_options(METHODS[method].target) == option_types(method_class(method))


def test_json_text_is_taken_where_a_mapping_is():
    plain = config(method="snapkv", budget=160, options={"pin_question": True, "sinks": 2})
    text = config(method="snapkv", budget=160, options='{"sinks": 2, "pin_question": true}')
    assert plain == text
    assert plain.cell_id == text.cell_id
    assert config(options="{}") == config(options={}) == config()
    with pytest.raises(KvreproError, match="parameter options='oops' is no JSON .*: expected|parameter options='oops'"):
        config(method="snapkv", budget=160, options="oops")


def test_an_option_has_one_hash_however_its_number_is_written():
    one, also = (config(method="rkv", budget=160, options={"mix": value}) for value in (1, 1.0))
    assert one.cell_id == also.cell_id
