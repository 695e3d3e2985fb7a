"""One cell, run on the shipped tiny model: its files, its resumption, its refusals."""

from __future__ import annotations

import json

import pytest

from kvrepro.benchmarks.table import load_problems
from kvrepro.errors import KvreproError, RunError
from kvrepro.files import read_rows
from kvrepro.paths import CHECKPOINTS
from kvrepro.runs.folder import MANIFEST, RECORD_FIELDS, RECORDS, read_records

from ..cells import HAS_MODEL, SETTINGS, WINDOW, build
from ..conftest import has_compiler

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not HAS_MODEL, reason="tiny-r1-llama is not in this checkout"),
]


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
    asked = {p.problem_id: p.question for p in load_problems(config.benchmark, 3)}
    assert [r["question"] for r in records] == [asked[r["problem_id"]] for r in records]


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


def completions(folder):
    """The file in which a single killed run left its replies."""
    (found,) = folder.glob("completions*.jsonl")
    return found


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
    with completions(tmp_path).open("a") as file:
        file.write(tail)
    kept = {(r["problem_id"], r["sample_id"]) for r in read_rows(completions(tmp_path), drop_cut_tail=True)}
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
    file = completions(tmp_path)
    first, *others = file.read_text().splitlines(keepends=True)
    file.write_text("".join([first, others[0][:30] + "\n", *others[1:]]))
    with pytest.raises(RunError, match=r"completions-whole-\w+\.jsonl, line 2: not JSON"):
        run_cell(config, tmp_path)


def test_a_prompt_beyond_the_budget_is_refused_with_problem_and_numbers(tmp_path):
    with pytest.raises(KvreproError, match=r"problem chain-12-000: the prompt has \d+ tokens, more than budget=40"):
        run_cell(build(WINDOW, budget=40, window=16), tmp_path)
    assert not (tmp_path / MANIFEST).exists()


def test_a_budget_too_small_for_the_pinned_question_is_refused_with_the_numbers(tmp_path):
    config = build(WINDOW, method="question_window", budget=100, window=40, ratio=0.5)
    with pytest.raises(KvreproError, match=r"problem chain-12-000: \d+ pinned tokens do not fit: budget=100 .*40 of"):
        run_cell(config, tmp_path)


def test_a_methods_file_that_is_edited_while_the_model_loads_makes_no_replies(tmp_path, monkeypatch):
    import kvrepro.runs.runner

    file, load = tmp_path / "mine.py", kvrepro.runs.runner.load_model
    source = "import kvrepro\n\n\nclass Mine(kvrepro.EvictionMethod):\n    def score(self, view):\n        return 0\n"
    file.write_text(source)

    def edited_meanwhile(entry, device=None):
        file.write_text(source + "# edited\n")
        return load(entry, device)

    monkeypatch.setattr("kvrepro.runs.runner.load_model", edited_meanwhile)
    with pytest.raises(KvreproError, match=r"mine-90/\w{8}: what it is made of changed while it was loaded"):
        run_cell(build(WINDOW, method=f"{file}:Mine", budget=90), tmp_path / "cell")
    assert not list((tmp_path / "cell").iterdir())


def test_dynts_without_a_head_says_how_to_train_one(tmp_path):
    config = build(WINDOW, method="dynts", budget=192, predictor=str(tmp_path / "none"))
    with pytest.raises(KvreproError, match="kvrepro train"):
        run_cell(config, tmp_path / "cell")


def test_records_and_manifest_say_where_answers_begin_and_who_opened_the_thought(finished):
    _, folder, manifest = finished
    assert manifest["thought"] == {
        "start": "<think>",
        "end": "</think>",
        "open_thought": "always",
        "start_appended": False,
    }
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
