"""From labels to a head, and the folders, plans and commands of the whole chain."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from kvrepro.cli import main
from kvrepro.errors import KvreproError
from kvrepro.files import read_rows, write_rows
from kvrepro.runs.profiles import profile_names
from kvrepro.training.importance import pipeline
from kvrepro.training.importance.pipeline import make_head
from kvrepro.training.importance.settings import load_plan, plan_names, read_plan
from kvrepro.training.stages import StageFolder, stage_path
from kvrepro.training.traces import TraceOptions

from .. import predictor_chain
from ..predictor_chain import PLAN

loaded, traces, labels = predictor_chain.loaded, predictor_chain.traces, predictor_chain.labels  # fixtures

pytest.importorskip("datasets", reason="labels are stored with the package datasets")


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
    target = tmp_path / "head"
    make_head(PLAN, labels["folder"], folder=target)
    before = (target / "model.safetensors").read_bytes()

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    longer = replace(PLAN, training={"epochs": 3})
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "score_head", killed)
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
        assert main([command, "tiny-r1-llama", *settings, *extra, "--threads", "1", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
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
    for content, message in (
        ("traces: {}", "expected a mapping with `model`"),
        ("model: tiny-r1-llama\nlables: {}", "unknown key of p.yaml 'lables'"),
        ("model: tiny-r1-llama\ntraining: {lr: 1e-3}", "training.lr='1e-3' is str, expected float"),
        ("model: tiny-r1-llama\ntraces: [1]", "expected a mapping of settings"),
        ("model: [", "is not valid YAML"),
    ):
        (tmp_path / "p.yaml").write_text(content)
        with pytest.raises(KvreproError, match=message):
            read_plan(tmp_path / "p.yaml")


def test_problems_are_found_beside_the_parameter_file():
    problems = Path(load_plan("smollm2-135m").traces.problems)
    assert problems.is_file() and len(problems.read_text().splitlines()) == 64
    # a name that is nowhere stays as it was given, and is reported when it is read
    assert load_plan("r1-qwen").traces.problems == "math_train.jsonl"
