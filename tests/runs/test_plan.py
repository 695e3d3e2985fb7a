"""The plan against what the engine allocates and against measured times; what it says when things do not fit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from kvrepro.cli import main
from kvrepro.errors import UnknownNameError
from kvrepro.methods.table import METHODS
from kvrepro.models.shapes import model_size
from kvrepro.models.table import model_entry
from kvrepro.paths import PACKAGE
from kvrepro.runs.config import CellConfig
from kvrepro.runs.forecast import CellForecast
from kvrepro.runs.machines import GPUS, machine
from kvrepro.runs.past_cells import ELSEWHERE, past_cells
from kvrepro.runs.profiles import load_profile
from kvrepro.runs.resolution import ASSUMED_PROMPT_TOKENS, resolve_cell
from kvrepro.runs.runner import run_cell
from kvrepro.runs.throughput import ThroughputSettings

TINY_TABLE = PACKAGE.parent / "notebooks" / "images" / "tiny-summary.csv"


def smoke(**changes) -> CellConfig:
    values = dict(model="tiny-r1-llama", benchmark="chain-12", n_problems=3, max_new_tokens=40, batch_rows=2)
    return CellConfig(**{**values, **changes})


def paper(**changes) -> CellConfig:
    values = dict(model="r1-qwen", benchmark="aime24", n_samples=5, max_new_tokens=16384, batch_rows=20)
    return CellConfig(**{**values, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "dynts", "budget": 120, "window": 32, "ratio": 0.5, "pin_overflow": "keep_first"},
        {"method": "window", "budget": 110, "window": 32, "evict_every": 7, "batch_rows": 64},
        # a budget that no reply can reach: the engine allocates less, and so does the plan
        {"method": "random", "budget": 4000, "window": 32, "ratio": 0.5},
    ],
    ids=["full", "dynts", "window", "roomy"],
)
def test_kv_bytes_equal_what_a_cell_allocates(tmp_path, changes):
    config = smoke(**changes)
    plan = CellForecast(config, machine(None), [])
    measured = run_cell(config, tmp_path / "cell")["stats"]
    assert plan.kv_bytes == measured["kv_bytes"]
    assert plan.kv_bytes_per_token == measured["bytes_per_slot"]
    assert (plan.batch_rows, plan.capacity_tokens) == (measured["batch_rows"], measured["capacity_tokens"])
    assert plan.prompt_source == "exact"


def test_a_budget_that_a_prompt_exceeds_does_not_fit():
    plan = CellForecast(smoke(method="h2o", budget=40, window=16), machine(None), [])
    assert re.match(r"problem chain-12-000: the prompt has \d+ tokens, more than budget=40", plan.problem)
    assert CellForecast(smoke(method="h2o", budget=160, window=16), machine(None), []).problem is None


def test_kv_bytes_equal_the_published_table_of_the_tiny_profile():
    table = pd.read_csv(TINY_TABLE)
    cells = load_profile("tiny").cells
    assert len(table) == len(cells)
    for row, config in zip(table.to_dict("records"), cells, strict=True):
        assert (row["model"], row["benchmark"], row["method"]) == (config.model, config.benchmark, config.method)
        assert CellForecast(config, machine("h100"), []).kv_bytes == row["kv_bytes_peak"], config.cell_id


def test_parameters_are_those_that_the_models_are_published_with():
    published = {
        "r1-qwen": 7_615_616_512,
        "r1-llama": 8_030_261_248,
        "r1-qwen-1.5b": 1_777_088_000,
        "qwen3-8b": 8_190_735_360,
        "qwen3-4b": 4_022_468_096,
        "smollm2-135m": 134_515_008,
    }
    for name, parameters in published.items():
        assert model_size(model_entry(name)).parameters == parameters, name
    # docs/budgets.md#bytes: 56 and 128 KiB a token
    assert model_size(model_entry("r1-qwen")).kv_bytes_per_token == 56 * 1024
    assert model_size(model_entry("r1-llama")).kv_bytes_per_token == 128 * 1024


def test_a_compressed_paper_cell_on_an_h100():
    config = paper(method="dynts", budget=5000, window=2000, ratio=0.4, pin_overflow="keep_first")
    plan = CellForecast(config, machine("h100"), [])
    assert plan.kv_bytes == 20 * 5001 * 56 * 1024
    assert plan.prompt_source == "exact", "the schedule alone sets the capacity"
    assert plan.problem is None
    assert plan.predictor_bytes == 2 * (3584 * 8192 + 8192 * 2048 + 2048), "no head is named: the published widths"
    room = 80e9 - (1 << 30) - plan.weights_bytes - plan.predictor_bytes
    # beside its cache a row takes three times its logits in float32
    assert plan.largest_batch == room // (5001 * 56 * 1024 + 3 * 4 * 152064)
    # nothing is measured: the time is a bound, and says so
    assert (plan.tokens_source, plan.time_source) == ("limit", "bound")
    total = 30 * 5 * 16384
    kept = 2000 + int(0.4 * 3001)
    # a step reads one line per row of the embedding table
    read = plan.weights_bytes - 2 * 152064 * 3584 + 20 * (kept + 5001) / 2 * 56 * 1024
    assert plan.seconds == pytest.approx(-(-total // 20) * read / 3350e9)


def test_a_head_is_counted_with_the_sizes_that_its_card_says():
    config = next(c for c in load_profile("tiny").cells if c.method == "dynts")
    stored = (Path(model_entry(config.model).source) / "importance" / "model.safetensors").stat().st_size
    plan = CellForecast(config, machine("h100"), [])
    # the file is the weights and a short header
    assert stored - 1000 < plan.predictor_bytes < stored
    resolved = resolve_cell(config)
    assert (resolved.kv_bytes, resolved.predictor_bytes) == (plan.kv_bytes, plan.predictor_bytes)


def test_a_head_in_the_local_copy_of_a_hub_repository_is_counted_with_its_own_sizes(tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit = "0" * 40
    copy = tmp_path / "models--me--head"
    (copy / "snapshots" / commit).mkdir(parents=True)
    (copy / "refs").mkdir()
    (copy / "refs" / "main").write_text(commit)
    shape = {"hidden": 192, "first": 7, "second": 3}
    (copy / "snapshots" / commit / "card.json").write_text(json.dumps({"shape": shape}))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    cell = smoke(method="dynts", budget=120, window=32, predictor="me/head")
    assert CellForecast(cell, machine("h100"), []).predictor_bytes == 4 * (192 * 7 + 7 * 3 + 3)
    absent = smoke(method="dynts", budget=120, window=32, predictor="me/absent")
    assert CellForecast(absent, machine("h100"), []).predictor_bytes == 4 * (192 * 8192 + 8192 * 2048 + 2048)


def test_the_notebook_and_the_plan_name_the_same_largest_batch(monkeypatch):
    from kvrepro.bench import bounds

    monkeypatch.setattr("kvrepro.runs.resolution.prompt_lengths", lambda *rows: None)
    table = bounds.largest_batch([bounds.ModelBytes(name) for name in bounds.TITLES], [2500, 4500])
    dynts = dict(method="dynts", window=2000, ratio=0.4, pin_overflow="keep_first")
    for row in table.itertuples():
        name = {"R1-Llama": "r1-llama", "R1-Qwen": "r1-qwen"}[row.model]
        budget = {} if pd.isna(row.budget_tokens) else {**dynts, "budget": int(row.budget_tokens)}
        plan = CellForecast(paper(model=name, **budget), machine("h100"), [])
        assert (row.rows, row.slots) == (plan.largest_batch, plan.capacity_tokens), row


def test_a_larger_budget_costs_more_and_a_faster_gpu_less():
    def seconds(budget, gpu):
        config = paper(method="window", budget=budget, window=2000, ratio=0.4)
        return CellForecast(config, machine(gpu), []).seconds

    assert seconds(2500, "h100") < seconds(5000, "h100") < seconds(5000, "a100-80g")


@pytest.mark.parametrize(
    ("gpu", "changes", "message"),
    [
        ("t4", {}, r"the weights \(14\.2 GiB\) do not fit .* t4: quantisation"),
        ("rtx4090", {}, r"20 rows of 0\.93 GiB do not fit .*batch_rows: 7 does"),
        (
            "rtx4090",
            {"model": "r1-llama", "max_new_tokens": 130000},
            "nor does one row: lower max_new_tokens or use a budget",
        ),
        ("b200", {"max_new_tokens": 131000, "batch_rows": 1}, "exceed the model's 131072 positions"),
    ],
)
def test_what_does_not_fit_says_why_and_what_would(gpu, changes, message):
    import re

    problem = CellForecast(paper(**changes), machine(gpu), []).problem
    assert problem is not None and re.search(message, problem), problem


def test_the_remedy_that_is_named_does_fit():
    plan = CellForecast(paper(batch_rows=7), machine("rtx4090"), [])
    assert plan.problem is None
    assert plan.prompt_source == "assumed"
    assert plan.capacity_tokens == ASSUMED_PROMPT_TOKENS + 16384


def test_cpu_measurements_are_not_taken_for_a_gpus_speed():
    profile = load_profile("tiny")
    known = past_cells(profile)
    assert known
    plan = CellForecast(profile.cells[1], machine("h100"), known)
    assert plan.tokens_source == ELSEWHERE, "a reply has the same length everywhere"
    assert plan.time_source == "bound"


@pytest.mark.parametrize("method", [m for m in METHODS if not m.startswith("oracle")])
def test_every_method_can_be_planned(method):
    options = {} if method == "full" else {"budget": 512, "window": 1 if method == "dynts_nolocal" else 64}
    plan = CellForecast(paper(method=method, **options), machine("h100"), [])
    assert plan.kv_bytes > 0
    assert (method == "full") == (plan.capacity_tokens > 16384)


def test_the_command_prints_totals_and_one_object(capsys):
    assert main(["plan", "--profile", "smoke", "--gpu", "h100", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n_cells"] == len(result["cells"]) == result["fits"] == 5
    assert result["time_from"] == ["bound", "limit"]
    # five rounds in one pass over four replies, of 600 tokens, of every cell
    steps_s = sum(600 * cell["batch_rows"] / cell["tps"] for cell in result["cells"])
    assert result["throughput_hours"] == pytest.approx(steps_s / 3600, abs=1e-3)


def test_the_command_says_how_long_a_machine_with_several_gpus_takes(call):
    command = ("plan", "--profile", "paper", "--gpu", "h100", "--gpus", "8")
    code, out, err = call(*command)
    assert code == 0, err
    result = json.loads(call(*command, "--json")[1])
    box = result["box"]
    assert box["gpus"] == 8 and box["longest_s"] == max(c["seconds"] for c in result["cells"])
    assert box["one_gpu_s"] == pytest.approx(3600 * (result["hours"] + result["throughput_hours"]), abs=4)
    assert box["one_gpu_s"] / 8 < box["seconds"] < box["one_gpu_s"]
    lines = out.splitlines()
    speedup = f"{box['one_gpu_s'] / box['seconds']:.1f} times as fast as one; limited by throughput"
    assert lines[2].startswith("8 x h100: ") and speedup in lines[2]
    fits = sorted(c["largest_batch"] for c in result["cells"] if c["cell_id"].startswith("r1-llama/"))
    assert any(line.endswith(f"20 rows are decoded together, {fits[0]} to {fits[-1]} would fit") for line in lines)


@pytest.mark.parametrize("profile", ["tiny", "tiny-methods", "paper-methods"])
def test_the_table_has_a_line_per_cell_that_fits_a_terminal_and_ends_without_an_object(call, profile):
    code, out, err = call("plan", "--profile", profile, "--gpu", "h100")
    assert code == 0, err
    totals, table, sources = out.split("\n\n")
    cells = load_profile(profile).cells
    panels = {cell.cell_id.rsplit("/", 2)[0] for cell in cells}
    head, *lines = table.splitlines()
    rows = [line for line in lines if line.startswith("  ")]
    assert len(rows) == len(cells) and {line.split(", ")[0] for line in lines if line not in rows} == panels
    assert max(map(len, (head, *lines))) <= 120
    assert {"KV GiB", "KV MiB"} & set(re.findall(r"KV \w+", head)) and re.search(r"time (s|min|h)", head)
    assert totals.startswith(f"{profile}: {len(cells)} cells, all fit on h100 (74.5 GiB)\ntime: ")
    assert re.match(r"(a: )?tokens [\w ]+, time bound", sources) and "{" not in out


def test_a_cell_that_holds_up_the_others_is_named_with_the_way_out(call):
    from kvrepro.cli import build_parser

    command = ("plan", "--profile", "paper-methods", "--gpu", "h100", "--gpus", "300")
    code, out, err = call(*command)
    assert code == 0, err
    result, line = json.loads(call(*command, "--json")[1]), out.splitlines()[2]
    assert f"limited by its longest cell, {result['box']['longest_cell']} (" in line
    assert result["box"]["split_s"] < result["box"]["cells_s"]
    asked = build_parser().parse_args(line.split("`kvrepro ")[1].split("`")[0].split())
    assert asked.cell_hours == pytest.approx(result["box"]["even_s"] / 3600, abs=0.011)


def test_gpus_that_are_not_here_are_said_in_one_line(call):
    code, out, err = call("plan", "--profile", "smoke", "--gpus", "64")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "--gpus 64: this machine has" in err and "--gpu h100" in err


def test_throughput_takes_a_pass_for_every_round_of_whole_replies():
    plan = CellForecast(paper(), machine("h100"), [])
    whole, turns = (plan.throughput_seconds(ThroughputSettings(rounds=10, turn_tokens=n)) for n in (None, 4))
    assert whole == pytest.approx(5 * turns) == pytest.approx(10 * 16384 * 20 / plan.tps)
    assert CellForecast(smoke(), machine(None), []).throughput_seconds(ThroughputSettings()) is None


def test_mistakes_are_named(capsys, tmp_path):
    with pytest.raises(UnknownNameError, match="unknown gpu 'h1000'; known: a100-40g"):
        machine("h1000")
    assert main(["plan", "--profile", "smoke", "--measured", str(tmp_path / "no.csv")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert min(g.bandwidth for g in GPUS.values()) > 1e11


def test_rows_are_not_asked_for_where_the_tokenizer_is_missing(monkeypatch):
    """Offline the Hub library tries for half a minute per benchmark, and the answer would be `assumed` all the same."""
    from kvrepro.runs import resolution as plan

    def missing(*_, **__):
        asked.append(1)
        raise OSError("not here")

    asked: list[int] = []
    plan.prompt_lengths.cache_clear()
    monkeypatch.setattr(plan, "load_problems", lambda *a: pytest.fail("asked for rows"))
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", missing)
    assert plan.ResolvedCell.of(paper()).prompts is None
    plans = [CellForecast(paper(**sizes), machine("h100"), []) for sizes in ({}, {"seed": 1})]
    assert {p.prompt_source for p in plans} == {"assumed"} and plans[0].capacity_tokens == ASSUMED_PROMPT_TOKENS + 16384
    assert len(asked) == 1, "the cells of a panel ask once"
    plan.prompt_lengths.cache_clear()
