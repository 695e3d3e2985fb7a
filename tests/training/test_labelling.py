"""Label folders: read back as they were made, bad traces counted, other models refused, workers share the work."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from kvrepro.cli import main
from kvrepro.errors import KvreproError
from kvrepro.files import read_rows, write_rows
from kvrepro.models.tokens import ThinkTags
from kvrepro.training import labelling
from kvrepro.training.dataset import LabelledTraces
from kvrepro.training.importance.pipeline import make_head, make_labels
from kvrepro.training.labelling import LabelOptions, Workers, build_dataset, label_traces
from kvrepro.training.stages import check_same_model
from kvrepro.training.trace_attention import label_sequence
from kvrepro.training.traces import KEPT, TRACES

from .. import predictor_chain
from ..predictor_chain import PLAN, some_traces

loaded, traces, labels = predictor_chain.loaded, predictor_chain.traces, predictor_chain.labels  # fixtures

datasets = pytest.importorskip("datasets", reason="labels are stored with the package datasets")


def test_labels_read_back_as_a_dataset_with_their_hidden_states(labels, loaded):
    model, _ = loaded.pair
    stored = datasets.load_from_disk(labels["folder"] + "/dataset")
    assert len(stored) == sum(c["labelled"] for c in labels["counts"].values())
    data = LabelledTraces(labels["folder"])
    row, example = data.rows["train"][0], next(data.examples("train"))
    fresh = label_sequence(model, row["token_ids"], row["answer_from"])
    thinking = slice(row["thinking_from"], row["thinking_to"])
    torch.testing.assert_close(example.labels, fresh.labels[thinking])
    torch.testing.assert_close(example.hidden, fresh.hidden[thinking].clone())
    assert example.n_thinking == len(example.labels)
    stopping, scoring = data.stopping_order(), data.scoring_order()
    assert sorted(stopping + scoring) == list(range(data.count("held_out")))


def test_traces_of_another_model_or_tokenizer_are_refused(traces, labels, loaded, tmp_path):
    other = replace(PLAN, model="tiny-r1-qwen")
    with pytest.raises(KvreproError, match="was made with another model: weights hash"):
        make_labels(other, traces["folder"], folder=tmp_path / "labels")
    with pytest.raises(KvreproError, match="was made with another model: weights hash"):
        make_head(other, labels["folder"], folder=tmp_path / "head")
    with pytest.raises(KvreproError, match="was made with another tokenizer"):
        check_same_model({"weights": "w", "tokenizer": "a"}, tmp_path, {"weights": "w", "tokenizer": "b"})
    with pytest.raises(KvreproError, match="holds 'traces', expected the folder of `kvrepro labels`"):
        LabelledTraces(traces["folder"])
    assert not (tmp_path / "labels").exists()


def label_into(folder, loaded, found, workers=Workers()):  # noqa: B008
    model, tokenizer = loaded.pair
    folder.mkdir(exist_ok=True)
    label_traces(model, found, ThinkTags.of(tokenizer).end, folder, LabelOptions(keep_heads=True), workers)


def test_unusable_traces_are_skipped_and_counted(traces, loaded, tmp_path):
    good = some_traces(traces, 3)
    bad = [
        replace(good[0], answer_from=len(good[0].token_ids)),
        replace(good[1], thinking_to=good[1].thinking_to - 1, answer_from=good[1].answer_from - 1),
    ]
    label_into(tmp_path / "l", loaded, [good[0], *bad, *good[1:]])
    counts = build_dataset([good[0], *bad, *good[1:]], tmp_path / "l")
    total = {name: sum(c[name] for c in counts.values()) for name in next(iter(counts.values()))}
    assert total == {"traces": 5, "labelled": 3, "unsound_parts": 1, "other_tokenizer": 1, "nan_labels": 0}


def test_nan_labels_are_skipped_when_made_and_when_read(traces, labels, loaded, tmp_path, monkeypatch):
    original = labelling.label_sequence

    def broken(model, token_ids, *args, **kwargs):
        found = original(model, token_ids, *args, **kwargs)
        return replace(found, labels=torch.full_like(found.labels, float("nan")))

    with monkeypatch.context() as patch:
        patch.setattr(labelling, "label_sequence", broken)
        label_into(tmp_path / "l", loaded, some_traces(traces, 2))
    counts = build_dataset(some_traces(traces, 2), tmp_path / "l")
    assert sum(c["nan_labels"] for c in counts.values()) == 2

    edited = tmp_path / "edited"
    shutil.copytree(labels["folder"], edited)
    rows = [dict(row) for row in datasets.load_from_disk(str(edited / "dataset"))]
    rows[0]["labels"][5] = float("nan")
    rows[1]["labels"].pop()
    next((edited / "hidden").glob("00002*")).unlink()
    shutil.rmtree(edited / "dataset")
    datasets.Dataset.from_list(rows).save_to_disk(str(edited / "dataset"))
    data = LabelledTraces(edited)
    assert data.skipped == {"nan_labels": 1, "wrong_length": 1, "no_hidden": 1}


def test_two_workers_and_a_resumed_run_make_the_parts_of_one(traces, loaded, tmp_path):
    found = some_traces(traces)
    label_into(tmp_path / "one", loaded, found)
    for rank in (1, 0):
        label_into(tmp_path / "two", loaded, found, Workers(rank, 2))
    (tmp_path / "two" / "parts" / "00001.json").unlink()
    kept = (tmp_path / "two" / "parts" / "00000.json").stat().st_mtime_ns
    label_into(tmp_path / "two", loaded, found)
    assert (tmp_path / "two" / "parts" / "00000.json").stat().st_mtime_ns == kept
    for path in sorted((tmp_path / "one").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_the_manifest_counts_what_was_skipped_and_names_another_tokenizer(traces, loaded, tmp_path, monkeypatch):
    copied = tmp_path / "traces"
    shutil.copytree(traces["folder"], copied)
    rows = list(read_rows(copied / TRACES))
    kept = [i for i, row in enumerate(rows) if row["outcome"] == KEPT and row["split"] == "train"]
    assert len(kept) > 3
    # one without an answer, one whose tag is not where it should be, one whose labels come out as NaN
    rows[kept[0]]["answer_from"] = len(rows[kept[0]]["token_ids"])
    rows[kept[1]]["thinking_to"] -= 1
    rows[kept[1]]["answer_from"] -= 1
    write_rows(copied / TRACES, rows)
    original, broken = labelling.label_sequence, rows[kept[2]]["token_ids"]

    def label(model, token_ids, *args, **kwargs):
        found = original(model, token_ids, *args, **kwargs)
        return replace(found, labels=found.labels * float("nan")) if token_ids == broken else found

    monkeypatch.setattr(labelling, "label_sequence", label)
    made = make_labels(PLAN, copied, folder=tmp_path / "labels", loaded=loaded)
    written = json.loads((tmp_path / "labels" / "manifest.json").read_text())["counts"]["train"]
    assert written == made["counts"]["train"]
    assert written == {
        "traces": len(kept),
        "labelled": len(kept) - 3,
        "unsound_parts": 1,
        "other_tokenizer": 1,
        "nan_labels": 1,
    }
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps({**manifest, "tokenizer": "0" * 64}))
    with pytest.raises(KvreproError, match="was made with another tokenizer: tokenizer hash 0000"):
        make_labels(PLAN, copied, folder=tmp_path / "other", loaded=loaded)


@pytest.mark.slow
def test_processes_of_accelerate_share_the_traces_and_publish_one_folder(tmp_path):
    """Two CPU processes under `accelerate launch` write what one process writes."""
    pytest.importorskip("accelerate", reason="splitting over devices needs accelerate")
    settings = ["--set", "traces.n_train=3", "--set", "traces.n_held_out=3", "--set", "traces.sizes=[4, 4]"]
    assert main(["traces", "tiny-r1-llama", *settings, "--out", str(tmp_path / "traces"), "--threads", "1"]) == 0
    common = ["labels", "tiny-r1-llama", "--traces", str(tmp_path / "traces"), "--threads", "1"]
    assert main([*common, "--out", str(tmp_path / "one")]) == 0
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--main_process_port", "0"]
    command = [sys.executable, *launch, "--module", "kvrepro", *common, "--out", str(tmp_path / "two"), "--distributed"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for path in sorted((tmp_path / "one" / "hidden").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / "hidden" / path.name).read_bytes()
    one, two = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("one", "two"))
    assert one["counts"] == two["counts"]
