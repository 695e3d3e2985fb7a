"""Traces: whole, right and counted; a killed run goes on; models that do not think are cut by a share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvrepro.engine.requests import Completion, Request
from kvrepro.errors import KvreproError
from kvrepro.files import append_row, read_rows
from kvrepro.models.identity import model_identity
from kvrepro.models.tokens import ThinkTags
from kvrepro.training.importance.pipeline import LoadedModel, make_labels, make_traces
from kvrepro.training.importance.settings import TrainingSettings
from kvrepro.training.questions import Question
from kvrepro.training.stages import StageFolder
from kvrepro.training.traces import KEPT, TRACES, Trace, TraceOptions, options_identity, select_traces, trace_outcome

from .. import predictor_chain
from ..predictor_chain import PLAN, SMALL, traces_file

loaded, traces = predictor_chain.loaded, predictor_chain.traces  # fixtures


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
        parts = {
            "token_ids": [sample],
            "thinking_from": 1,
            "thinking_to": 2,
            "answer_from": 3,
            "gold": "1",
            "kind": "integer",
        }
        return {"problem_id": problem, "sample_id": sample, "outcome": outcome, "split": "train", **parts}

    rows = [row("a", 2, KEPT), row("a", 0, "wrong"), row("a", 1, KEPT), row("b", 0, "no_think_end")]
    found, counts = select_traces(rows)
    assert [(t.problem_id, t.token_ids) for t in found] == [("a", [1])]
    chosen = {name: n for name, n in counts["train"].items() if n}
    assert chosen == {"generated": 4, "kept": 1, "wrong": 1, "no_think_end": 1, "surplus": 1}


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
    with pytest.raises(KvreproError, match="does not think.*traces.answer_share=0.25"):
        make_traces(replace(mute, traces=replace(mute.traces, answer_share=None)), folder=tmp_path / "traces")
    with pytest.raises(KvreproError, match="answer_share=1.5: a part of the reply"):
        TraceOptions(answer_share=1.5)
    for wrong in ({"passes": (5, 2)}, {"passes": (0, 12)}, {"passes": (3,)}, {"sizes": (2, 8)}, {"sizes": ("a", 8)}):
        with pytest.raises(KvreproError, match="fewest and most"):
            TraceOptions(**wrong)
    assert not {"answer_share", "passes"} & set(options_identity(SMALL))
    assert options_identity(replace(SMALL, passes=(0, 3)))["passes"] == (0, 3)
    assert options_identity(mute.traces)["answer_share"] == 0.25
