"""One cell, run on the shipped tiny model: its files, its resumption, its refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kvrepro.errors import KvreproError, RunError
from kvrepro.files import read_rows
from kvrepro.paths import CHECKPOINTS
from kvrepro.runs import notebooks as execution
from kvrepro.runs.config import CellConfig
from kvrepro.runs.folder import COMPLETIONS, MANIFEST, RECORD_FIELDS, RECORDS, CellFolder, read_records

from .conftest import has_compiler

HAS_MODEL = (CHECKPOINTS / "tiny-r1-llama" / "model.safetensors").is_file()
pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not HAS_MODEL, reason="kvrepro/tiny/checkpoints/tiny-r1-llama is not in this checkout"),
]
# prompts have about 80 tokens, so 24 new tokens make `window` at 90 evict
SETTINGS = {"model": "tiny-r1-llama", "benchmark": "chain-12", "n_problems": 3, "max_new_tokens": 24, "batch_rows": 2}
WINDOW = {**SETTINGS, "method": "window", "budget": 90, "window": 32, "ratio": 0.75}


def build(values, **changes) -> CellConfig:
    return CellConfig.from_mapping({**values, **changes})


def run_cell(config, folder):
    from kvrepro.runs.runner import run_cell

    return run_cell(config, folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished cell with two samples per problem: `(config, folder, manifest)`."""
    config = build(WINDOW, n_samples=2)
    folder = tmp_path_factory.mktemp("cell")
    return config, folder, run_cell(config, folder)


def test_records_have_every_field_and_one_row_per_sample_in_order(finished):
    config, folder, _ = finished
    records = read_records(folder)
    assert [(r["problem_id"], r["sample_id"]) for r in records] == [
        (f"{config.benchmark}-{i:03d}", s) for i in range(3) for s in range(2)
    ]
    for record in records:
        assert set(RECORD_FIELDS) <= set(record)
        assert record["n_thinking_tokens"] + record["n_answer_tokens"] <= config.max_new_tokens
        assert isinstance(record["correct"], bool)
        assert record["gold"].isdigit()
        assert record["n_prompt_tokens"] > 60


def test_a_reply_that_the_limit_cut_is_no_plain_failure(finished):
    _, folder, manifest = finished
    records = read_records(folder)
    # 24 tokens do not finish a chain of 12: every reply is cut inside the thought
    assert {r["status"] for r in records} == {"truncated"}
    assert manifest["status"] == {"truncated": 6}
    assert manifest["score"]["truncated_share"] == 1


def test_manifest_tells_config_origin_score_and_peaks(finished):
    config, folder, manifest = finished
    assert json.loads((folder / MANIFEST).read_text()) == manifest
    assert manifest["config"] == config.resolved()
    assert manifest["cell_id"] == config.cell_id
    assert manifest["n_records"] == 6
    assert manifest["resumed_records"] == 0
    assert manifest["decoder"] == ("native" if has_compiler() else "fused")
    assert manifest["batch_invariant"] == has_compiler()
    assert (manifest["score"]["n_problems"], manifest["score"]["n_samples"]) == (3, 2)
    for key in ("versions", "git", "hardware", "weights", "rows_sha256", "started", "ended", "wall_s", "protocol"):
        assert manifest[key] is not None, key
    for name in ("python", "torch", "transformers"):
        assert manifest["versions"][name]
    assert manifest["evictions"] > 0
    assert manifest["kv_tokens_peak"] == config.budget + manifest["method"]["slack_tokens"]
    stats = manifest["stats"]
    assert stats["kv_bytes"] == stats["batch_rows"] * stats["capacity_tokens"] * stats["bytes_per_slot"]
    assert stats["decode_tps"] > 0


def test_a_finished_cell_leaves_no_working_file(finished):
    _, folder, _ = finished
    assert sorted(p.name for p in folder.iterdir()) == sorted([MANIFEST, RECORDS])


def test_a_second_call_reads_and_does_not_load_a_model(finished, monkeypatch):
    config, folder, manifest = finished
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}
    monkeypatch.setattr("kvrepro.runs.runner.load_model", lambda *a, **k: pytest.fail("the model was loaded again"))
    assert run_cell(config, folder) == manifest
    assert {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()} == before


def test_a_finished_folder_of_another_cell_is_refused(finished):
    config, folder, _ = finished
    other = build(config.resolved(), seed=1)
    with pytest.raises((KvreproError, RunError), match=config.hash8):
        run_cell(other, folder)


def kill_after(monkeypatch, n_completions):
    """Make the engine die, as from Ctrl-C, once it has yielded so many completions."""
    from kvrepro.engine.engine import Engine

    original = Engine.run

    def run(self, requests):
        for number, completion in enumerate(original(self, requests)):
            if number == n_completions:
                raise KeyboardInterrupt
            yield completion

    monkeypatch.setattr(Engine, "run", run)


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def start_and_kill(monkeypatch, config, folder, n_completions=None):
    """Run until the engine, or the grading when no number is given, is interrupted."""
    with monkeypatch.context() as patch:
        if n_completions is None:
            patch.setattr("kvrepro.runs.grading.grade_many", interrupt)
        else:
            kill_after(patch, n_completions)
        with pytest.raises(KeyboardInterrupt):
            run_cell(config, folder)
    assert not (folder / MANIFEST).exists()
    assert not (folder / RECORDS).exists()


@pytest.mark.parametrize("tail", ["", '{"problem_id": "chain-12-0'])
def test_a_killed_run_resumes_to_the_same_records(finished, tmp_path, monkeypatch, tail):
    config, folder, manifest = finished
    start_and_kill(monkeypatch, config, tmp_path, 3)
    with (tmp_path / COMPLETIONS).open("a") as file:
        file.write(tail)
    kept = {(r["problem_id"], r["sample_id"]) for r in read_rows(tmp_path / COMPLETIONS, drop_cut_tail=True)}
    assert len(kept) == 3
    from kvrepro.engine.engine import Engine

    generated, original = [], Engine.run

    def spy(self, requests):
        generated.extend(requests)
        yield from original(self, generated)

    monkeypatch.setattr(Engine, "run", spy)
    resumed = run_cell(config, tmp_path)
    wanted = {(r["problem_id"], r["sample_id"]) for r in read_records(folder)}
    assert {(r.problem_id, r.sample_id) for r in generated} == wanted - kept
    assert read_records(tmp_path) == read_records(folder)
    assert resumed["resumed_records"] == 3
    for key in ("score", "status", "evictions", "kv_tokens_peak", "n_records", "cell_id"):
        assert resumed[key] == manifest[key], key


def test_a_run_killed_before_its_last_reply_reports_the_whole_run(finished, tmp_path, monkeypatch):
    config, _, manifest = finished
    start_and_kill(monkeypatch, config, tmp_path, 5)
    resumed = run_cell(config, tmp_path)
    # one row was left: its memory and its speed are not those of the cell
    for key in ("kv_bytes", "batch_rows", "decoded_tokens"):
        assert resumed["stats"][key] >= manifest["stats"][key], key


def test_a_run_killed_while_grading_keeps_measured_throughput_and_memory(finished, tmp_path, monkeypatch):
    config, folder, manifest = finished
    start_and_kill(monkeypatch, config, tmp_path)
    resumed = run_cell(config, tmp_path)
    assert read_records(tmp_path) == read_records(folder)
    # zero bytes and a speed of NaN would enter summary.csv as if they had been measured
    json.dumps(resumed, allow_nan=False)
    assert resumed["stats"]["kv_bytes"] == manifest["stats"]["kv_bytes"]


def test_replies_of_another_cell_are_not_taken_over(finished, tmp_path, monkeypatch):
    config, _, _ = finished
    start_and_kill(monkeypatch, config, tmp_path, 3)
    with pytest.raises((KvreproError, RunError), match=config.hash8):
        run_cell(build(config.resolved(), seed=1), tmp_path)


def test_a_manifest_without_its_records_is_not_taken_for_a_finished_cell(finished, tmp_path):
    # a kill between the moves of `publish` leaves the manifest alone in the working folder
    config, folder, _ = finished
    (tmp_path / MANIFEST).write_bytes((folder / MANIFEST).read_bytes())
    run_cell(config, tmp_path)
    assert list(read_rows(tmp_path / RECORDS)) == list(read_rows(folder / RECORDS))


def test_a_broken_working_file_is_named(finished, tmp_path, monkeypatch):
    config, _, _ = finished
    start_and_kill(monkeypatch, config, tmp_path, 3)
    file = tmp_path / COMPLETIONS
    first, *others = file.read_text().splitlines(keepends=True)
    file.write_text("".join([first, others[0][:30] + "\n", *others[1:]]))
    with pytest.raises(RunError, match=r"completions\.jsonl, line 2"):
        run_cell(config, tmp_path)


def test_a_prompt_beyond_the_budget_is_refused_with_problem_and_numbers(tmp_path):
    with pytest.raises(KvreproError, match=r"problem chain-12-000: the prompt has \d+ tokens, more than budget=40"):
        run_cell(build(WINDOW, budget=40, window=16), tmp_path)
    assert not (tmp_path / MANIFEST).exists()


def test_a_budget_too_small_for_the_pinned_question_is_refused_with_the_numbers(tmp_path):
    config = build(WINDOW, method="question_window", budget=100, window=40, ratio=0.5)
    with pytest.raises(KvreproError, match=r"problem chain-12-000: \d+ pinned tokens do not fit: budget=100 .*40 of"):
        run_cell(config, tmp_path)


def test_dynts_without_a_head_says_how_to_train_one(tmp_path):
    config = build(WINDOW, method="dynts", budget=192, predictor=str(tmp_path / "none"))
    with pytest.raises(KvreproError, match="kvrepro train"):
        run_cell(config, tmp_path / "cell")


def test_a_parameter_that_the_notebook_does_not_have_is_refused(tmp_path):
    source = execution.project_root() / "notebooks" / "cell.ipynb"
    with pytest.raises(KvreproError, match=r"cell\.ipynb has no parameter budgett; it has model, benchmark"):
        execution.execute_notebook(source, tmp_path / "run.ipynb", {"model": "tiny-r1-llama", "budgett": 3})
    assert not (tmp_path / "run.ipynb").exists()


def test_a_kernel_that_dies_is_a_failed_cell_and_no_traceback(monkeypatch):
    # what nbclient raises when the kernel is killed, for example for memory; it is no PapermillExecutionError
    from nbclient.exceptions import DeadKernelError

    def die(*args, **kwargs):
        raise DeadKernelError("Kernel died")

    monkeypatch.setattr("papermill.execute_notebook", die)
    config = build(WINDOW)
    with pytest.raises(RunError, match=f"{config.hash8} failed: .*Kernel died"):
        execution.run_cell_notebook("single", config)


HOLD_LOCK = """
import pathlib, sys, time
from kvrepro.files import held
with held(pathlib.Path(sys.argv[1]), "x"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_cell_that_another_process_runs_is_refused_and_shown_as_running():
    config = build(WINDOW)
    folder = CellFolder.of("single", config)
    holder = subprocess.Popen([sys.executable, "-c", HOLD_LOCK, str(folder.lock)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline().strip() == "held"
        assert folder.is_running
        with pytest.raises(KvreproError, match=f"{config.hash8} is being run by another process, pid {holder.pid} "):
            execution.run_cell_notebook("single", config)
    finally:
        holder.kill()
        holder.wait()
    # the lock dies with its process
    assert not folder.is_running


def test_a_cell_runs_as_a_notebook_and_is_published_whole():
    config = build(WINDOW, n_problems=1)
    path = execution.run_cell_notebook("single", config)
    folder = CellFolder.of("single", config)
    assert path == folder.path
    assert folder.is_complete
    assert not folder.partial.exists()
    notebook = json.loads((path / "run.ipynb").read_text())
    assert notebook["metadata"]["papermill"]["exception"] is None
    assert any("image/png" in out.get("data", {}) for cell in notebook["cells"] for out in cell.get("outputs", []))


def test_a_failed_cell_is_named_kept_and_shown_as_failed():
    from kvrepro.runs.profiles import Profile
    from kvrepro.runs.status import profile_state

    config = build(WINDOW, budget=40, window=16)
    with pytest.raises(RunError, match="the prompt has") as caught:
        execution.run_cell_notebook("single", config)
    assert config.cell_id in str(caught.value)
    failed = Path(str(caught.value).split("executed notebook: ")[1])
    assert "KvreproError" in failed.read_text()
    assert not CellFolder.of("single", config).is_complete
    assert [s.state for s in profile_state(Profile("single", "", (config,)))] == ["failed"]


def test_the_text_of_an_option_counts_as_its_letter():
    from types import SimpleNamespace

    from kvrepro.benchmarks.problem import Problem
    from kvrepro.runs.runner import _graded

    problem = Problem("p", "How high?\nA) 12 m\nB) 14 m\nC) 16 m\nD) 18 m", "C", ("12 m", "14 m", "16 m", "18 m"))
    row = {"problem_id": "p", "sample_id": 0, "status": "ok", "text": "x</think>It is \\boxed{16\\text{ m}} high."}
    [graded] = _graded([problem], [row], SimpleNamespace(benchmark="gpqa_d"))
    assert (graded["correct"], graded["answer"]) == (True, "C")
    assert "12 m" not in json.dumps(graded)


@pytest.mark.parametrize(("status", "is_right"), [("ok", True), ("truncated", False), ("nan_logits", False)])
def test_a_reply_that_has_no_answer_is_never_correct(status, is_right):
    """Whatever its text holds: a thought that mentions the closing tag and a box is still a thought."""
    from types import SimpleNamespace

    from kvrepro.benchmarks.problem import Problem
    from kvrepro.runs.runner import _graded

    row = {"problem_id": "p", "sample_id": 0, "status": status, "text": "x</think>It is \\boxed{7}.", "answer_start": 9}
    [graded] = _graded([Problem("p", "?", "7")], [row], SimpleNamespace(benchmark="chain-12"))
    assert (graded["correct"], graded["answer"], graded["status"]) == (is_right, "7" if is_right else None, status)


def test_the_answer_is_graded_from_where_the_token_ids_say():
    from types import SimpleNamespace

    from kvrepro.benchmarks.problem import Problem
    from kvrepro.runs.runner import _graded

    text = "x</think>It is \\boxed{7}, after </think> as they say."
    rows = [
        {"problem_id": "p", "sample_id": i, "status": "ok", "text": text, "answer_start": start}
        for i, start in enumerate((9, text.index("after")))
    ]
    first, second = _graded([Problem("p", "?", "7")], rows, SimpleNamespace(benchmark="chain-12"))
    assert (first["answer"], first["correct"], first["answer_start"]) == ("7", True, 9)
    assert (second["answer"], second["correct"]) == (None, False)


def test_records_and_manifest_say_where_answers_begin_and_who_opened_the_thought(finished):
    _, folder, manifest = finished
    assert manifest["thought"] == {
        "start": "<think>", "end": "</think>", "open_thought": "always", "start_appended": False,
    }  # fmt: skip
    assert {r["answer_start"] for r in read_records(folder)} == {None}


def test_a_cell_counts_replies_without_finite_logits(tmp_path, monkeypatch):
    import kvrepro.runs.runner

    load = kvrepro.runs.runner.load_model

    def broken(entry, device=None):
        model, tokenizer = load(entry, device)
        model.model.norm.weight.data.fill_(float("inf"))
        return model, tokenizer

    monkeypatch.setattr("kvrepro.runs.runner.load_model", broken)
    with pytest.warns(RuntimeWarning, match="3 replies ended with status nan_logits"):
        manifest = run_cell(build(SETTINGS), tmp_path)
    assert manifest["status"] == {"nan_logits": 3}
    assert manifest["score"]["pass_at_1"] == 0
    assert {(r["text"], r["correct"]) for r in read_records(tmp_path)} == {("", False)}


def test_a_copy_whose_template_opens_no_thought_runs_like_the_original(tmp_path, monkeypatch):
    import shutil

    copy = shutil.copytree(CHECKPOINTS / "tiny-r1-llama", tmp_path / "copy")
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").write_text(template.replace("<think>\\n", ""))
    (tmp_path / "models.yaml").write_text(f"copy: {{source: {copy}, dtype: float32}}\n")
    monkeypatch.setenv("KVREPRO_MODELS", str(tmp_path / "models.yaml"))
    found = {}
    for name in ("tiny-r1-llama", "copy"):
        manifest = run_cell(build(SETTINGS, model=name, n_problems=1), tmp_path / f"{name}-cell")
        found[name] = read_records(tmp_path / f"{name}-cell")
        assert manifest["thought"]["start_appended"] == (name == "copy")
    assert found["copy"] == found["tiny-r1-llama"]
