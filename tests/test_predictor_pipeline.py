"""The chain from questions to a head on random models and files: bad input is counted, other models are refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from kvrepro.cli import main
from kvrepro.engine.requests import Completion, Request
from kvrepro.errors import KvreproError
from kvrepro.files import append_row, read_rows, write_rows
from kvrepro.models.identity import model_identity
from kvrepro.models.tokens import ThinkTags
from kvrepro.training.dataset import LabelledTraces
from kvrepro.training.importance.pipeline import LoadedModel, make_head, make_labels, make_traces
from kvrepro.training.importance.settings import TrainingSettings
from kvrepro.training.labelling import LabelOptions, Workers, build_dataset, label_traces
from kvrepro.training.questions import Question
from kvrepro.training.stages import StageFolder, check_same_model, stage_path
from kvrepro.training.traces import KEPT, TRACES, Trace, TraceOptions, select_traces, trace_outcome

datasets = pytest.importorskip("datasets", reason="labels are stored with the package datasets")

SMALL = TraceOptions(n_train=6, n_held_out=4, sizes=(4, 5), max_new_tokens=200, batch_rows=10)
PLAN = TrainingSettings("tiny-r1-llama", SMALL, training={"epochs": 2})


@pytest.fixture(scope="module")
def loaded():
    return LoadedModel(PLAN, "cpu")


@pytest.fixture(scope="module")
def traces(tmp_path_factory, loaded):
    return make_traces(PLAN, folder=tmp_path_factory.mktemp("chain") / "traces", loaded=loaded)


@pytest.fixture(scope="module")
def labels(traces, loaded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain") / "labels"
    return make_labels(PLAN, traces["folder"], folder=folder, loaded=loaded)


# --- traces ---------------------------------------------------------------------------------------------------------


def test_traces_are_whole_correct_and_counted(traces, loaded):
    _, tokenizer = loaded.pair
    assert traces["counts"]["train"]["generated"] == 6
    assert traces["counts"]["held_out"]["generated"] == 4
    found, counts = select_traces(read_rows(traces_file(traces)))
    assert counts == traces["counts"]
    assert len(found) == sum(c[KEPT] for c in counts.values()) > 4
    tag = ThinkTags.of(tokenizer).end
    for trace in found:
        assert trace.is_sound
        assert tuple(trace.token_ids[trace.thinking_to : trace.answer_from]) == tag
        assert "<think>" in tokenizer.decode(trace.token_ids[: trace.thinking_from])


def traces_file(manifest):
    from pathlib import Path

    return Path(manifest["folder"]) / TRACES


def test_a_killed_run_goes_on_and_draws_the_same_replies(traces, loaded, tmp_path):
    rows = list(read_rows(traces_file(traces)))
    target = StageFolder(tmp_path / "again", traces["identity"])
    with target.session() as partial:
        for row in rows[:3]:
            append_row(partial / TRACES, row)
        with (partial / TRACES).open("a") as file:
            file.write('{"problem_id": "cut')
    assert target.finished() is None
    again = make_traces(PLAN, folder=target.path, loaded=loaded)
    assert not target.partial.exists()
    ordered = sorted(read_rows(traces_file(again)), key=lambda r: r["problem_id"])
    assert ordered == sorted(rows, key=lambda r: r["problem_id"])
    assert again["hash8"] == traces["hash8"]


def test_finished_folders_are_left_alone_and_other_settings_refused(traces, loaded):
    before = traces_file(traces).stat().st_mtime_ns
    again = make_traces(PLAN, folder=traces_file(traces).parent, loaded=loaded)
    assert (again["wall_s"], traces_file(traces).stat().st_mtime_ns) == (traces["wall_s"], before)
    other = replace(PLAN, traces=replace(SMALL, seed=1))
    with pytest.raises(KvreproError, match="traces of other settings"):
        make_traces(other, folder=traces_file(traces).parent, loaded=loaded)


def test_traces_of_a_changed_template_are_others(traces, loaded, monkeypatch):
    changed = {**model_identity(PLAN.entry), "files": "another template"}
    monkeypatch.setattr("kvrepro.training.importance.pipeline.model_identity", lambda entry: changed)
    with pytest.raises(KvreproError, match="traces of other settings"):
        make_traces(PLAN, folder=traces_file(traces).parent, loaded=loaded)


def reply(tokenizer, text, status="ok"):
    ids = tokenizer.encode(text, add_special_tokens=False)
    think, found = ThinkTags.of(tokenizer), Completion(Request("q", 0, (1, 2)), ids, status)
    closed = [i + 1 for i in range(len(ids)) if think.closes(ids[: i + 1])]
    found.has_closed, found.n_thinking_tokens = bool(closed), closed[0] if closed else len(ids)
    return found


@pytest.mark.parametrize(
    ("text", "status", "expected"),
    [
        ("A x=7</think> and the answer is \\boxed{7}", "ok", KEPT),
        ("A x=7 and the answer is \\boxed{7}", "ok", "no_think_end"),
        ("A x=7", "truncated", "no_think_end"),
        ("A x=7</think> and the ans", "length_limit", "answer_cut_off"),
        ("A x=7</think></think>\\boxed{7}", "ok", "several_think_ends"),
        ("A x=7</think><|end_of_sentence|>", "ok", "empty_answer"),
        ("A x=7</think>\n\n<|end_of_sentence|>", "ok", "empty_answer"),
        ("</think>\\boxed{7}", "ok", "empty_answer"),
        ("A x=7</think>\\boxed{8}", "ok", "wrong"),
    ],
)
def test_a_reply_is_a_trace_or_says_why_not(loaded, text, status, expected):
    _, tokenizer = loaded.pair
    question = Question("q", "?", "7", "integer", "train")
    assert trace_outcome(reply(tokenizer, text, status), question, ThinkTags.of(tokenizer), tokenizer) == expected


def test_the_first_correct_sample_of_a_problem_is_taken():
    def row(problem, sample, outcome):
        parts = {"token_ids": [sample], "thinking_from": 1, "thinking_to": 2, "answer_from": 3, "gold": "1",
                 "kind": "integer"}  # fmt: skip
        return {"problem_id": problem, "sample_id": sample, "outcome": outcome, "split": "train", **parts}

    rows = [row("a", 2, KEPT), row("a", 0, "wrong"), row("a", 1, KEPT), row("b", 0, "no_think_end")]
    found, counts = select_traces(rows)
    assert [(t.problem_id, t.token_ids) for t in found] == [("a", [1])]
    chosen = {name: n for name, n in counts["train"].items() if n}
    assert chosen == {"generated": 4, "kept": 1, "wrong": 1, "no_think_end": 1, "surplus": 1}


# --- labels ---------------------------------------------------------------------------------------------------------


def test_labels_read_back_as_a_dataset_with_their_hidden_states(labels, loaded):
    from kvrepro.training.labels import label_sequence

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


def some_traces(traces, n=4):
    return select_traces(read_rows(traces_file(traces)))[0][:n]


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
    from kvrepro.training import labelling

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
    from kvrepro.training import labelling

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
        "traces": len(kept), "labelled": len(kept) - 3, "unsound_parts": 1, "other_tokenizer": 1, "nan_labels": 1
    }  # fmt: skip
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


# --- head -----------------------------------------------------------------------------------------------------------


def test_a_head_carries_its_scores_counts_and_leads(labels, tmp_path):
    card = make_head(PLAN, labels["folder"], folder=tmp_path / "head")
    on_disk = json.loads((tmp_path / "head" / "card.json").read_text())
    assert on_disk["shape"] == {"hidden": 192, "first": 384, "second": 96}
    assert set(on_disk["scores"]) == {"head", "random", "position", "identity"}
    assert on_disk["recipe"]["epochs"] == 2
    assert on_disk["traces"] == labels["trace_counts"]
    assert {p.name for p in (tmp_path / "head").iterdir()} == {"card.json", "model.safetensors", "log.csv"}
    again = make_head(PLAN, labels["folder"], folder=tmp_path / "head")
    assert again["wall_s"] == card["wall_s"]


def test_an_unfinished_head_is_not_taken_for_one(labels, tmp_path, monkeypatch):
    from kvrepro.training.importance import pipeline as predictor_pipeline

    target = tmp_path / "head"
    make_head(PLAN, labels["folder"], folder=target)
    before = (target / "model.safetensors").read_bytes()

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    longer = replace(PLAN, training={"epochs": 3})
    with monkeypatch.context() as patch:
        patch.setattr(predictor_pipeline, "score_head", killed)
        with pytest.raises(KeyboardInterrupt):
            make_head(longer, labels["folder"], folder=target)
    assert (target / "model.safetensors").read_bytes() == before
    assert json.loads((target / "card.json").read_text())["recipe"]["epochs"] == 2
    assert make_head(longer, labels["folder"], folder=target)["epochs_run"] == 3


# --- folders and commands -------------------------------------------------------------------------------------------


def test_one_process_at_a_time_works_in_a_folder(tmp_path):
    target, other = (StageFolder(tmp_path / "stage", {"a": value}) for value in ((1, 2), 2))
    with target.session(), pytest.raises(KvreproError, match=f"another process, pid {os.getpid()}"):  # noqa: SIM117
        with target.session():
            pass
    with target.session():
        pass  # tuples read back as lists, which is the same identity
    with pytest.raises(KvreproError, match="unfinished work of other settings"), other.session():
        pass
    assert stage_path("m", "traces", {"a": 1}) != stage_path("m", "traces", {"a": 2})


def test_the_commands_chain_through_their_default_folders(capsys, tmp_path):
    settings = ["--set", "traces.n_train=3", "--set", "traces.n_held_out=3", "--set", "traces.sizes=[4, 4]"]
    for command, extra in (("traces", []), ("labels", []), ("train", ["--epochs", "1", "--out", str(tmp_path / "h")])):
        assert main([command, "tiny-r1-llama", *settings, *extra, "--threads", "1"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["folder"].rsplit("/")[-1].split("-")[0] for line in lines] == ["traces", "labels", "h"]
    assert lines[2]["labels"] == lines[1]["folder"]


def test_a_dry_run_prints_the_plan_and_loads_nothing(capsys):
    assert main(["traces", "r1-llama", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["traces"]["problems"] == "math_train.jsonl"
    assert plan["training"]["label_map"] == "llama"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["traces", "nonsense"], "unknown model or plan"),
        (["traces", "tiny-r1-llama", "--set", "traces.n_trian=3"], "unknown setting 'n_trian'"),
        (["traces", "tiny-r1-llama", "--set", "traces.n_train=many"], "n_train='many' is str, expected int"),
        (["traces", "tiny-r1-llama", "--set", "n_train=1"], "unknown setting 'n_train'"),
        (["traces", "tiny-r1-llama", "--set", "traces.n_train"], "expected NAME=VALUE"),
        (["traces", "tiny-r1-llama", "--problems", "absent.jsonl"], "no problems in absent.jsonl"),
        (["labels", "tiny-r1-llama", "--traces", "absent"], "absent is no finished traces folder"),
        (["labels", "tiny-r1-llama", "--distributed"], "give their folder with --traces"),
        (["train", "tiny-r1-llama", "--labels", "absent"], "absent is no finished labels folder"),
        (["train", "tiny-r1-llama", "--set", "training.alpha=2"], "alpha=2"),
        (["train", "tiny-r1-llama", "--threads", "0"], "--threads=0"),
    ],
)
def test_wrong_usage_is_named_and_exits_with_2(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_write_rows_is_whole(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [{"a": 1}])
    assert list(read_rows(tmp_path / "rows.jsonl")) == [{"a": 1}]


def test_every_plan_parses_and_is_no_profile():
    from kvrepro.runs.profiles import profile_names
    from kvrepro.training.importance.settings import load_plan, plan_names

    assert plan_names() == ["r1-llama", "r1-qwen", "smollm2-135m", "tiny-r1-llama", "tiny-r1-qwen"]
    for name in plan_names():
        plan = load_plan(name)
        assert plan.entry.name == name
        assert isinstance(plan.traces, TraceOptions)
        assert plan.recipe(192).epochs > 0
    assert load_plan("r1-qwen").recipe().label_map == "qwen"
    assert load_plan("r1-llama").traces.must_check == ("aime24", "aime25", "amc23", "gk23en", "math500")
    assert not set(profile_names()) & set(plan_names())


def test_a_plan_file_with_a_mistake_is_refused(tmp_path):
    from kvrepro.training.importance.settings import read_plan

    for content, message in (
        ("traces: {}", "expected a mapping with `model`"),
        ("model: tiny-r1-llama\nlables: {}", "unknown key of p.yaml 'lables'"),
        ("model: tiny-r1-llama\ntraining: {lr: 1e-3}", "training.lr='1e-3' is str, expected float"),
        ("model: tiny-r1-llama\ntraces: [1]", "expected a mapping of settings"),
        ("model: [", "cannot be read"),
    ):
        (tmp_path / "p.yaml").write_text(content)
        with pytest.raises(KvreproError, match=message):
            read_plan(tmp_path / "p.yaml")


def test_trace_defaults_are_sound():
    assert Trace([1, 2, 3, 4], 1, 2, 3).is_sound
    assert not Trace([1, 2, 3], 1, 2, 3).is_sound


# --- models that do not think ---------------------------------------------------------------------------------------


@pytest.fixture
def mute(tmp_path, monkeypatch):
    """A tiny model that is said not to think."""
    from kvrepro.models.table import MODELS

    row = f"mute: {{source: {MODELS['tiny-r1-llama'].source}, think_end: null, dtype: float32}}\n"
    (tmp_path / "models.yaml").write_text(row)
    monkeypatch.setenv("KVREPRO_MODELS", str(tmp_path / "models.yaml"))
    return TrainingSettings("mute", replace(SMALL, n_train=3, n_held_out=2, max_new_tokens=40, answer_share=0.25))


def test_replies_without_a_thought_are_cut_by_share_and_can_be_labelled(mute, tmp_path):
    loaded = LoadedModel(mute, "cpu")
    made = make_traces(mute, folder=tmp_path / "traces", loaded=loaded)
    assert made["counts"]["train"][KEPT] == 3, "right or wrong, cut off or not: there is no answer to grade"
    found, _ = select_traces(read_rows(traces_file(made)))
    for trace in found:
        reply = len(trace.token_ids) - trace.thinking_from
        assert len(trace.token_ids) - trace.answer_from == round(0.25 * reply)
        assert trace.thinking_to == trace.answer_from and trace.is_sound
    labelled = make_labels(mute, made["folder"], folder=tmp_path / "labels", loaded=loaded)
    assert labelled["counts"]["train"]["labelled"] == 3


def test_without_a_share_such_a_model_is_refused_and_old_folders_keep_their_names(mute, tmp_path):
    from kvrepro.training.traces import options_identity

    with pytest.raises(KvreproError, match="does not think.*traces.answer_share=0.25"):
        make_traces(replace(mute, traces=replace(mute.traces, answer_share=None)), folder=tmp_path / "traces")
    with pytest.raises(KvreproError, match="answer_share=1.5: a part of the reply"):
        TraceOptions(answer_share=1.5)
    assert "answer_share" not in options_identity(SMALL)
    assert options_identity(mute.traces)["answer_share"] == 0.25


def test_problems_are_found_beside_the_parameter_file():
    from pathlib import Path

    from kvrepro.training.importance.settings import load_plan

    problems = Path(load_plan("smollm2-135m").traces.problems)
    assert problems.is_file() and len(problems.read_text().splitlines()) == 64
    # a name that is nowhere stays as it was given, and is reported when it is read
    assert load_plan("r1-qwen").traces.problems == "math_train.jsonl"
