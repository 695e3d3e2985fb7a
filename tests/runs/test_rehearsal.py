"""Stand-ins for the paper's models: faithful where they claim to be, loaded offline from a folder like the Hub's."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml

from kvrepro.benchmarks.real import load_real
from kvrepro.benchmarks.sources import REAL_BENCHMARKS
from kvrepro.benchmarks.table import load_problems
from kvrepro.cache.shape import CacheShape
from kvrepro.errors import KvreproError, UnknownNameError
from kvrepro.models.shapes import CONFIGS
from kvrepro.models.table import MODELS
from kvrepro.models.tokens import ThinkTags, render_prompt
from kvrepro.paths import hub_environment
from kvrepro.runs.profiles import load_profile
from kvrepro.runs.rehearsal import build_hub, build_tokenizer, stand_in_config, write_benchmarks

TEXTS = ["Find the sum of all integer bases $b>9$ for which $17_b$ is a divisor of $97_b$.", "Let $x$ be real."] * 3
# ids of the published tokenizers
IDS = {
    "r1-qwen": {
        "<｜begin▁of▁sentence｜>": 151646,
        "<｜end▁of▁sentence｜>": 151643,
        "<｜User｜>": 151644,
        "<｜Assistant｜>": 151645,
        "<think>": 151648,
        "</think>": 151649,
    },
    "r1-llama": {
        "<｜begin▁of▁sentence｜>": 128000,
        "<｜end▁of▁sentence｜>": 128001,
        "<｜User｜>": 128011,
        "<｜Assistant｜>": 128012,
        "<think>": 128013,
        "</think>": 128014,
    },
}


@pytest.mark.parametrize("name", ["r1-qwen", "r1-llama", "r1-qwen-1.5b"])
def test_a_stand_in_keeps_depth_heads_and_vocabulary(name):
    config, published = stand_in_config(name), CONFIGS[name]
    shape = CacheShape.of(config)
    assert (shape.layers, shape.q_heads, shape.kv_heads) == (
        published["num_hidden_layers"],
        published["num_attention_heads"],
        published["num_key_value_heads"],
    )
    assert config.vocab_size == published["vocab_size"]
    assert config.hidden_size < published["hidden_size"]
    assert "random weights" in config.kvrepro_stand_in


@pytest.mark.parametrize("name", IDS)
def test_special_tokens_have_their_published_ids_and_the_prompt_ends_in_an_open_thought(name):
    tokenizer = build_tokenizer(name, TEXTS)
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in IDS[name]} == IDS[name]
    ids = IDS[name]
    prompt = render_prompt(tokenizer, TEXTS[0])
    assert prompt[:2] == [ids["<｜begin▁of▁sentence｜>"], ids["<｜User｜>"]]
    assert tokenizer.decode(prompt[-4:]).endswith("<｜Assistant｜><think>\n")
    assert ThinkTags.of(tokenizer).end == (ids["</think>"],)
    # the tag must survive the decoding that grading reads, and the end token must not
    assert tokenizer.decode([ids["</think>"], ids["<｜end▁of▁sentence｜>"]], skip_special_tokens=True) == "</think>"


def test_a_model_without_known_special_tokens_has_no_stand_in():
    with pytest.raises(KvreproError, match="no stand-in for model 'qwen3-8b'"):
        stand_in_config("qwen3-8b")


def test_rows_have_the_real_format_and_number(tmp_path, monkeypatch):
    origins = write_benchmarks(tmp_path, None)
    assert set(origins) == set(REAL_BENCHMARKS) and set(origins.values()) == {"stand-in rows"}
    for name, entry in REAL_BENCHMARKS.items():
        assert len(load_real(name, data_dir=tmp_path)) == entry.n_problems
    monkeypatch.setenv("KVREPRO_DATA", str(tmp_path))
    assert {p.gold for p in load_problems("gpqa_d")} == set("ABCD")


SCRIPT = """
import json, sys
from kvrepro.bench.throughput import measure_panel
from kvrepro.runs.config import CellConfig
from kvrepro.runs.folder import NOTEBOOK
from kvrepro.runs.profiles import Profile, load_profile
from kvrepro.runs.throughput import Panel
from kvrepro.models.loading import load_model
from kvrepro.models.table import model_entry
from kvrepro.runs.runner import run_cell
found = {}
for name in ("missing/model", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B@0000000000000000000000000000000000000000"):
    try:
        load_model(model_entry(name))
    except ValueError as error:
        found[name] = str(error)
both = dict(model="r1-qwen", benchmark="aime24", n_problems=1, n_samples=2, sampling_order="dynts", batch_rows=2)
config = CellConfig(
    method="dynts", budget=150, window=60, ratio=0.4, pin_overflow="keep_first", max_new_tokens=130, **both
)
cells = config, CellConfig(max_new_tokens=20, **both)
profile = Profile("mine", "", cells, throughput=load_profile("paper").throughput)
for cell, folder in zip(profile.cells, profile.folders):
    run_cell(cell, folder.path)
    (folder.path / NOTEBOOK).write_text("{}")
manifest = run_cell(config, profile.folders[0].path)
(panel,) = Panel.all_of(profile)
found["panel"] = measure_panel(panel, panel.settings)
keys = ("revision", "stand_in", "kv_tokens_peak", "evictions", "predictor", "stats")
found["evictions"] = manifest["evictions"]
found["manifest"] = {k: manifest[k] for k in keys}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """What a process sees that has nothing but the stand-in Hub."""
    root = tmp_path_factory.mktemp("rehearsal")
    write_benchmarks(root / "rows", None)
    (root / "models.yaml").write_text(yaml.safe_dump(build_hub(root, ["r1-qwen"], TEXTS)))
    environment = {**os.environ, **hub_environment(root, root / "rows", root / "models.yaml"), "OMP_NUM_THREADS": "1"}
    environment["KVREPRO_RESULTS"] = str(root / "results")
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return root, json.loads(done.stdout.splitlines()[-1])


def test_a_cell_runs_offline_from_the_pinned_revision_and_says_what_it_ran_on(offline):
    _, found = offline
    manifest = found["manifest"]
    assert manifest["revision"] == MODELS["r1-qwen"].revision
    assert "not the published model" in manifest["stand_in"]
    assert manifest["kv_tokens_peak"] == 151 and manifest["evictions"] > 0
    assert manifest["predictor"] == "hub:kvrepro-rehearsal/importance-r1-qwen"
    # bfloat16, 28 layers, 4 KV heads of size 8
    assert manifest["stats"]["bytes_per_slot"] == 2 * 2 * 28 * 4 * 8


def test_throughput_is_measured_as_the_paper_profile_asks_which_its_rehearsal_does_not(offline):
    _, found = offline
    panel, asked = found["panel"], load_profile("paper").throughput
    # whole replies in turn: five rounds of every cell of the rehearsal would take too long
    assert panel["settings"] == vars(asked) and asked.turn_tokens is None
    assert [row["rows"] for row in panel["cells"].values()] == [2, 2]
    assert panel["new_tokens"] > 0 and panel["methods"]["dynts"]["verdict"] in ("falls", "rises", "level", "busy")
    assert all(
        row["evictions"] == asked.rounds * found["evictions"] * (row["budget"] is not None)
        for row in panel["cells"].values()
    )


def test_the_folder_is_laid_out_as_the_hub_library_lays_it_out(offline):
    root, _ = offline
    place = root / "hub" / "models--deepseek-ai--DeepSeek-R1-Distill-Qwen-7B"
    commit = MODELS["r1-qwen"].revision
    assert (place / "refs" / "main").read_text() == commit
    weights = place / "snapshots" / commit / "model.safetensors"
    assert weights.is_symlink() and weights.resolve().parent == place / "blobs"


def test_an_absent_model_and_an_absent_revision_are_explained(offline):
    _, found = offline
    absent, revision = found["missing/model"], found[f"{MODELS['r1-qwen'].source}@{'0' * 40}"]
    assert "no network, or offline mode" in absent and "hf download missing/model" in absent
    assert f"revision {'0' * 40} is not in the local cache" in revision


def test_a_rehearsal_has_the_cells_of_its_profile_and_only_smaller_sizes():
    original, rehearsal = load_profile("paper"), load_profile("paper-rehearsal")
    assert rehearsal.rehearses == "paper"
    assert "REHEARSAL" in rehearsal.title and not rehearsal.paper_marks
    assert len(rehearsal.cells) == len(original.cells)
    changed = {"budget", "window", "evict_every", "max_new_tokens", *rehearsal.overrides["set"]}
    for small, full in zip(rehearsal.cells, original.cells, strict=True):
        differing = {k for k, v in small.resolved().items() if v != full.resolved()[k]}
        assert differing <= changed
        assert small.cell_id != full.cell_id
        if full.budget:
            assert small.budget == round(0.064 * full.budget)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rehearses: paper\nscale: 0.1\n", "unknown key of mine.yaml 'scale'; known: rehearses, scale_tokens"),
        ("rehearses: paper\nscale_tokens: 2\n", r"must lie in \(0, 1\]"),
        ("rehearses: nothing\n", "unknown profile 'nothing'"),
        ("rehearses: mine\n", "cannot rehearse itself"),
        ("rehearses: small\nset: {windw: 3}\n", "unknown parameter 'windw'"),
    ],
)
def test_mistakes_in_a_rehearsal_are_named(tmp_path, monkeypatch, text, message):
    monkeypatch.setenv("KVREPRO_ROOT", str(tmp_path))
    (tmp_path / "nbs_params").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "budget_curves.ipynb").touch()
    (tmp_path / "nbs_params" / "small.yaml").write_text("panels: [{model: tiny-r1-llama, benchmark: chain-12}]\n")
    (tmp_path / "nbs_params" / "mine.yaml").write_text(text)
    with pytest.raises((KvreproError, UnknownNameError), match=message):
        load_profile("mine")


def test_the_command_refuses_a_profile_that_is_no_rehearsal(capsys):
    from kvrepro.cli import main

    assert main(["rehearse", "smoke"]) == 2
    assert "is no rehearsal" in capsys.readouterr().err
