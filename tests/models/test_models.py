"""The model table and what can go wrong on the way to a loaded model: every error names the fix."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from huggingface_hub import errors as hub_errors

from kvrepro.errors import KvreproError, UnknownNameError
from kvrepro.models import loading, memory
from kvrepro.models.identity import weights_fingerprint
from kvrepro.models.loading import load_model
from kvrepro.models.table import (
    MODELS,
    ModelEntry,
    generation_defaults,
    model_entry,
    model_table,
    predictor_source,
)
from kvrepro.paths import CHECKPOINTS

TINY = CHECKPOINTS / "tiny-r1-llama"


@pytest.fixture
def folder(tmp_path):
    """A copy of a tiny checkpoint that a test may damage."""
    return shutil.copytree(TINY, tmp_path / "copy")


def test_the_papers_models_are_pinned_to_a_commit():
    for name in ("r1-qwen", "r1-llama", "r1-qwen-1.5b", "qwen3-8b", "qwen3-4b"):
        entry = model_entry(name)
        assert len(entry.revision) == 40 and set(entry.revision) <= set("0123456789abcdef")
        assert weights_fingerprint(entry) == f"hub:{entry.source}@{entry.revision}"
        assert (entry.opening_tag, entry.think_end) == ("<think>", "</think>")
        assert generation_defaults(name) == {"temperature": 0.6, "top_p": 0.95, "top_k": 20}


def test_any_hub_id_is_a_model_and_keeps_its_revision():
    entry = model_entry("some-org/Some.Model-7B@v1.2")
    assert (entry.source, entry.revision, entry.reference) == (
        "some-org/Some.Model-7B",
        "v1.2",
        "some-org/Some.Model-7B@v1.2",
    )
    assert model_entry("some-org/Some.Model-7B").revision is None
    from kvrepro.runs.config import CellConfig

    cell = CellConfig(model="some-org/Some.Model-7B@v1.2", benchmark="chain-12")
    assert cell.model == "some-org/Some.Model-7B@v1.2"
    other = CellConfig(model="some-org/Some.Model-7B", benchmark="chain-12")
    assert cell.hash8 != other.hash8


def test_unknown_names_list_what_there_is():
    with pytest.raises(UnknownNameError, match=r"unknown model 'r1-quen'; known: .*Hub id.*r1-qwen"):
        model_entry("r1-quen")


def test_user_rows_change_and_extend_the_table(tmp_path, monkeypatch):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "r1-qwen: {quantisation: 4bit, predictor: /heads/r1}\nmine: {source: org/mine, think_end: </done>}\n"
    )
    plain = weights_fingerprint(MODELS["r1-qwen"])
    monkeypatch.setenv("KVREPRO_MODELS", str(path))
    assert set(model_table()) == {*MODELS, "mine"}
    changed = model_entry("r1-qwen")
    assert changed.revision == MODELS["r1-qwen"].revision
    assert predictor_source(changed) == "/heads/r1"
    # quantised weights give other tokens, so the cell must get another name
    assert weights_fingerprint(changed) == plain + "+4bit"
    assert model_entry("mine").think_end == "</done>"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine: {sorce: a/b}", "unknown field of model 'mine' in mine.yaml 'sorce'"),
        ("mine: {title: x}", "has no `source`"),
        ("mine: 3", "expected `name: {source"),
        ("mine: {source: a/b, dtype: fp16}", "dtype='fp16'; known are auto, float32"),
        ("mine: {source: a/b, quantisation: 3bit}", "quantisation='3bit'"),
        ("mine: [", "cannot be read as a model table"),
    ],
)
def test_mistakes_in_user_rows_are_named(tmp_path, monkeypatch, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.setenv("KVREPRO_MODELS", str(tmp_path / "mine.yaml"))
    with pytest.raises(KvreproError, match=message):
        model_entry("mine")


def test_a_folder_loads_and_carries_no_hub_revision(folder):
    entry = model_entry(str(folder))
    model, tokenizer = load_model(entry)
    assert model.dtype == torch.float32 and not model.training
    assert tokenizer.chat_template
    assert loading.resolved_revision(entry) is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer .*copy the tokenizer files"),
        (lambda f: (f / "model.safetensors").unlink(), r"has no \*\.safetensors weights"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            r"pickle weights only \(pytorch_model.bin\).*Convert them",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"cut"), "cannot be loaded from"),
        (
            lambda f: (f / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}})
            ),
            "lacks 1 of 2 weight files, for example model-00002.safetensors",
        ),
    ],
)
def test_a_damaged_folder_says_what_is_missing(folder, damage, message):
    damage(folder)
    with pytest.raises(KvreproError, match=message):
        load_model(model_entry(str(folder)))


def test_a_folder_without_configuration_is_no_model(tmp_path):
    with pytest.raises(KvreproError, match="has no config.json"):
        model_entry(str(tmp_path))


def test_a_fetched_model_that_is_not_there_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("KVREPRO_CACHE", str(tmp_path))
    with pytest.raises(KvreproError, match="run `kvrepro fetch smollm2`"):
        load_model(model_entry("smollm2-135m"))


def _response(status: int):
    import httpx

    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", "Accept the terms at .*hf auth login"),
        ("RepositoryNotFoundError", "the Hub has no such model.*Check the spelling"),
        ("RevisionNotFoundError", "has no revision 'nope'.*leave the revision out"),
        ("LocalEntryNotFoundError", "no network, or offline mode.*hf download a/b --revision nope"),
    ],
)
def test_hub_failures_are_explained_by_their_kind(monkeypatch, kind, message):
    """The Hub's own exception types, raised where transformers would meet them; it wraps them into OSError."""
    error = getattr(hub_errors, kind)
    cause = error("x") if kind == "LocalEntryNotFoundError" else error("x", response=_response(404))

    def fail(*args, **kwargs):
        raise OSError("wrapped") from cause

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fail)
    monkeypatch.setattr(loading, "check_fits", lambda *a, **k: None)
    with pytest.raises(KvreproError, match=message):
        load_model(ModelEntry("b", "b", "a/b", "float32", "nope"))


def test_too_little_memory_is_said_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda *a: 10 * memory.GIB)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *a, **k: pytest.fail("began to load"))
    with pytest.raises(
        KvreproError, match=r"needs 15\.2 GiB on cuda \(14\.2 weights.*10\.0 GiB are free.*8bit or 4bit"
    ):
        load_model(model_entry("r1-qwen"), "cuda")
    # with the cache that its cell needs, a model may not fit although its weights do
    monkeypatch.setattr(memory, "free_bytes", lambda *a: 16 * memory.GIB)
    memory.check_fits(model_entry("r1-qwen"), "cuda")
    with pytest.raises(KvreproError, match="lower batch_rows or the budget"):
        memory.check_fits(model_entry("r1-qwen"), "cuda", cache_bytes=2 * memory.GIB)


@pytest.mark.parametrize("setting", [{"quantisation": "8bit"}, {"device_map": "auto"}])
def test_settings_for_gpus_are_refused_on_a_cpu(setting, folder):
    entry = ModelEntry("copy", "copy", str(folder), "float32", **setting)
    with pytest.raises(KvreproError, match="need a GPU, the device is cpu"):
        load_model(entry, "cpu")


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_quantised_weights_without_their_library_name_the_extra_to_install(bits, folder, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda *a: 100 * memory.GIB)

    def absent(*args, **kwargs):
        assert kwargs["quantization_config"].load_in_8bit == (bits == "8bit")
        raise ImportError("Using `bitsandbytes` quantization requires bitsandbytes")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", absent)
    entry = ModelEntry("copy", "copy", str(folder), "float32", quantisation=bits)
    with pytest.raises(KvreproError, match=r"requires bitsandbytes.*pip install 'kvrepro\[quantised\]'"):
        load_model(entry, "cuda")


def test_a_model_without_thoughts_runs_a_cell_and_its_replies_are_all_answer(tmp_path, monkeypatch):
    from kvrepro.runs.config import CellConfig
    from kvrepro.runs.runner import run_cell

    (tmp_path / "models.yaml").write_text(f"mute: {{source: {TINY}, think_end: null, dtype: float32}}\n")
    monkeypatch.setenv("KVREPRO_MODELS", str(tmp_path / "models.yaml"))
    config = CellConfig(model="mute", benchmark="chain-12", n_problems=2, max_new_tokens=12)
    manifest = run_cell(config, tmp_path / "cell")
    # cut inside the answer, not inside a thought that does not exist
    assert manifest["status"] == {"length_limit": 2}
    rows = [json.loads(line) for line in (tmp_path / "cell" / "records.jsonl").read_text().splitlines()]
    assert {(r["n_thinking_tokens"], r["n_answer_tokens"]) for r in rows} == {(0, 12)}
