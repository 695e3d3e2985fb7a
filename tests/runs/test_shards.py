"""A cell made in parts: records as of the unsplit cell to the last byte, a manifest of all runs, nothing made twice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from kvrepro.claims import held
from kvrepro.engine.engine import Engine
from kvrepro.errors import KvreproError
from kvrepro.runs import runner
from kvrepro.runs.folder import MANIFEST, RECORDS, CellFolder, read_manifest
from kvrepro.runs.parts import Part, part_claims, wait_for_parts
from kvrepro.runs.replies import Replies

from ..cells import HAS_MODEL, WINDOW, build
from ..conftest import has_compiler
from ..test_documented_reference import named, section

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not HAS_MODEL, reason="tiny-r1-llama is not in this checkout"),
    pytest.mark.skipif(not has_compiler(), reason="without the compiled decode step bits depend on the batch"),
]
# sampled, two replies to each of three problems, in batches of two
TWO = {**WINDOW, "n_samples": 2}
# each but the full cache evicts within these replies; random_attention draws noise
METHODS = {
    "full": {"method": "full", "budget": None, "window": None, "ratio": None},
    "window": {},
    "dynts": {"method": "dynts", "budget": 120, "window": 16},
    "random_attention": {"method": "random_attention", "budget": 120, "window": 16, "ratio": None},
    "snapkv": {"method": "snapkv", "window": 16, "ratio": None},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An unsplit cell: `(config, folder, manifest)`."""
    config, folder = build(TWO), tmp_path_factory.mktemp("whole")
    return config, folder, runner.run_cell(config, folder)


def no_model(monkeypatch):
    monkeypatch.setattr(runner, "load_model", lambda *args: pytest.fail("a model was loaded"))


def same_but_runs(manifest):
    """What a manifest says of the replies, and not of the runs that made them."""
    of_runs = {"runs", "stats", "started", "ended", "wall_s", "resumed_records", "hardware"}
    return {name: value for name, value in manifest.items() if name not in of_runs}


@pytest.mark.parametrize("method", METHODS)
def test_a_cell_in_parts_has_the_records_of_the_unsplit_cell(tmp_path, monkeypatch, method):
    config = build(TWO, **{"max_new_tokens": 120, **METHODS[method]})
    expected = runner.run_cell(config, tmp_path / "whole")
    assert (method == "full") == (expected["evictions"] == 0)
    for n_parts in (2, 3):
        folder = tmp_path / str(n_parts)
        for index in range(n_parts, 0, -1):
            runner.run_shard(config, folder, Part(index, n_parts))
        with monkeypatch.context() as patch:
            no_model(patch)
            found = runner.run_cell(config, folder)
        assert (folder / RECORDS).read_bytes() == (tmp_path / "whole" / RECORDS).read_bytes()
        assert same_but_runs(found) == same_but_runs(expected)
        assert [run["shard"] for run in found["runs"]] == [*(f"{i}/{n_parts}" for i in range(n_parts, 0, -1)), None]
        assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, RECORDS]


def test_two_parts_of_two_samples_are_one_sample_of_every_problem_each(tmp_path):
    config = build(TWO)
    runner.run_shard(config, tmp_path, Part(2, 2))
    places = Replies.found(tmp_path, config.cell_id).places
    assert sorted(places) == [(f"chain-12-{number:03d}", 1) for number in range(3)]


def test_the_manifest_lists_every_run_and_sums_them_up(whole, tmp_path):
    config, _, unsplit = whole
    for index in (1, 2):
        runner.run_shard(config, tmp_path, Part(index, 2))
    manifest = runner.run_cell(config, tmp_path)
    assert json.loads((tmp_path / MANIFEST).read_text()) == manifest
    assert set(manifest) == set(unsplit)
    runs = manifest["runs"]
    assert [run["replies"] for run in runs] == [3, 3, 0]
    assert manifest["resumed_records"] == 6
    assert manifest["wall_s"] == sum(run["wall_s"] for run in runs)
    assert all(run["wall_s"] > 0 and run["pid"] == os.getpid() for run in runs)
    assert manifest["started"] == runs[0]["started"] <= runs[1]["started"] <= runs[2]["ended"] == manifest["ended"]
    for name in ("host", "versions", "git", "hardware"):
        assert all(run[name] == unsplit["runs"][0][name] for run in runs), name
        assert manifest.get(name, runs[0][name]) == runs[0][name]
    assert [run["decoder"] for run in runs] == [unsplit["decoder"], unsplit["decoder"], None]
    for count in ("decoded_tokens", "evictions"):
        assert manifest["stats"][count] == sum(run["stats"][count] for run in runs[:2]) == unsplit["stats"][count]
    assert runs[2]["stats"] is None


def test_an_unsplit_cell_has_one_run(whole):
    _, folder, manifest = whole
    (run,) = manifest["runs"]
    assert (run["shard"], run["replies"], run["wall_s"]) == (None, 6, manifest["wall_s"])
    assert run["stats"]["decoded_tokens"] == manifest["stats"]["decoded_tokens"]
    assert sorted(named(section("Runs of a cell"))) == sorted(run)
    digest = subprocess.run(["sha256sum", folder / RECORDS], capture_output=True, text=True, check=True).stdout
    assert manifest["records_sha256"] == digest.split()[0]


def spied(monkeypatch):
    """The replies that engines are asked for from here on."""
    asked, original = [], Engine.run

    def run(self, requests):
        requests = list(requests)
        asked.extend((r.problem_id, r.sample_id) for r in requests)
        yield from original(self, requests)

    monkeypatch.setattr(Engine, "run", run)
    return asked


def stopped_after(monkeypatch, n_replies, call):
    """Call what runs an engine, and interrupt it after so many replies."""
    original = Engine.run

    def run(self, requests):
        for number, completion in enumerate(original(self, requests)):
            if number == n_replies:
                raise KeyboardInterrupt
            yield completion

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "run", run)
        with pytest.raises(KeyboardInterrupt):
            call()


def test_the_number_of_parts_may_change_and_no_reply_is_made_again(whole, tmp_path, monkeypatch):
    config, folder, unsplit = whole
    stopped_after(monkeypatch, 1, lambda: runner.run_cell(config, tmp_path))
    stopped_after(monkeypatch, 1, lambda: runner.run_shard(config, tmp_path, Part(2, 2)))
    there = set(Replies.found(tmp_path, config.cell_id).places)
    assert len(there) == 2
    asked = spied(monkeypatch)
    made = [runner.run_shard(config, tmp_path, Part(index, 3))["made"] for index in (3, 1)]
    manifest = runner.run_cell(config, tmp_path)
    assert len(asked) == 4 > sum(made)
    assert not there & set(asked)
    assert (tmp_path / RECORDS).read_bytes() == (folder / RECORDS).read_bytes()
    assert [(run["shard"], run["replies"]) for run in manifest["runs"][:2]] == [(None, 1), ("2/2", 1)]
    # a run that was killed left its times with its last reply
    assert all(run["wall_s"] > 0 and run["ended"] for run in manifest["runs"])
    assert manifest["stats"]["decoded_tokens"] >= unsplit["stats"]["decoded_tokens"]


def test_whether_steps_were_captured_is_known_at_the_end_of_a_run(whole, tmp_path, monkeypatch):
    config, _, unsplit = whole
    original = Engine.run

    def run(self, requests):
        yield from original(self, requests)
        self.decoder.captures = True

    monkeypatch.setattr(Engine, "run", run)
    runner.run_shard(config, tmp_path, Part(1, 1))
    assert (unsplit["captured"], runner.run_cell(config, tmp_path)["captured"]) == (False, True)


def test_a_part_that_is_there_loads_nothing(whole, tmp_path, monkeypatch):
    config, _, _ = whole
    assert runner.run_shard(config, tmp_path, Part(1, 2)) == {"replies": 3, "made": 3}
    no_model(monkeypatch)
    monkeypatch.setattr(runner, "claimed_gpus", lambda n: pytest.fail("a GPU was asked for"))
    assert runner.run_shard(config, tmp_path, Part(1, 2)) == {"replies": 3, "made": 0}
    assert runner.run_shard(config, tmp_path, Part(7, 7)) == {"replies": 0, "made": 0}


def test_a_part_of_a_cell_that_was_killed_before_it_was_put_in_its_place_makes_nothing(whole, tmp_path, monkeypatch):
    config, folder, _ = whole
    no_model(monkeypatch)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {MANIFEST, RECORDS}
    assert runner.run_shard(config, folder, Part(1, 2)) == {"replies": 3, "made": 0}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(KvreproError, match="holds cell .*, asked for is "):
        runner.run_shard(build(TWO, seed=1), folder, Part(1, 2))


def test_waiting_for_a_device_is_no_time_of_a_part(whole, tmp_path, monkeypatch):
    config, _, _ = whole
    happened = []
    monkeypatch.setattr(runner, "claimed_gpus", lambda n: contextlib.nullcontext(happened.append("devices")))
    monkeypatch.setattr(runner, "_Clock", lambda made=runner._Clock: happened.append("clock") or made())
    runner.run_shard(config, tmp_path, Part(1, 6))
    assert happened == ["devices", "clock"]


def test_a_gathering_run_makes_what_parts_have_left(whole, tmp_path, monkeypatch):
    config, folder, _ = whole
    runner.run_shard(config, tmp_path, Part(1, 3))
    asked = spied(monkeypatch)
    manifest = runner.run_cell(config, tmp_path)
    assert len(asked) == 4
    assert [(run["shard"], run["replies"]) for run in manifest["runs"]] == [("1/3", 2), (None, 4)]
    assert (tmp_path / RECORDS).read_bytes() == (folder / RECORDS).read_bytes()


def test_a_cell_waits_for_its_live_parts(whole, tmp_path, monkeypatch, capsys):
    config, _, _ = whole
    cell = CellFolder(tmp_path / "cell", tmp_path)
    claim = held(tmp_path / ".cell.shard-1of2.lock", "x")

    def part_ends(seconds):
        runner.run_shard(config, cell.partial, Part(1, 2))
        claim.__exit__(None, None, None)

    monkeypatch.setattr("kvrepro.claims.time.sleep", part_ends)
    claim.__enter__()
    wait_for_parts(cell.partial, f"cell {config.cell_id}")
    manifest = runner.run_cell(config, cell.partial)
    assert [(run["shard"], run["replies"]) for run in manifest["runs"]] == [("1/2", 3), (None, 3)]
    assert f"cell {config.cell_id} waits for pid {os.getpid()} on " in capsys.readouterr().err


def test_replies_of_an_earlier_version_are_taken_over(whole, tmp_path, monkeypatch):
    config, folder, _ = whole
    # it had one file for all sessions, and kept no facts of a session
    stopped_after(monkeypatch, 3, lambda: runner.run_cell(config, tmp_path))
    (facts,), (file,) = tmp_path.glob("run-*.json"), tmp_path.glob("completions*.jsonl")
    facts.unlink()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.unlink()
    new = ("ended", "wall_s")
    old = [json.dumps({name: value for name, value in row.items() if name not in new}) + "\n" for row in rows]
    (tmp_path / "completions.jsonl").write_text("".join(old))
    manifest = runner.run_cell(config, tmp_path)
    assert [(run["replies"], run["host"] is None) for run in manifest["runs"]] == [(3, True), (3, False)]
    assert (tmp_path / RECORDS).read_bytes() == (folder / RECORDS).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST, RECORDS]


def command(*words):
    values = [f"{name}={'null' if value is None else value}" for name, value in TWO.items()]
    sets = [word for value in values for word in ("--set", value)]
    return [sys.executable, "-m", "kvrepro", "run", *sets, "--json", *words]


def test_runs_of_one_cell_at_once_make_every_reply_once(whole):
    config, folder, unsplit = whole
    words = [("--shard", "1/2"), ("--shard", "1/2"), ()]
    # the plain run waits for the parts, or they find the cell complete
    runs = [subprocess.Popen(command(*w), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for w in words]
    try:
        ended = [(*run.communicate(timeout=300), run.returncode) for run in runs]
    finally:
        for run in runs:
            run.kill()
    assert [code for _, _, code in ended] == [0] * len(words), ended
    cell = CellFolder.of("single", config)
    manifest = read_manifest(cell.path)
    assert (cell.path / RECORDS).read_bytes() == (folder / RECORDS).read_bytes()
    assert sum(run["replies"] for run in manifest["runs"]) == 6
    # what was made twice would have been decoded twice
    assert manifest["stats"]["decoded_tokens"] == unsplit["stats"]["decoded_tokens"]
    made = [json.loads(out)["made"] for out, _, _ in ended if "made" in json.loads(out)]
    assert sum(made) == sum(run["replies"] for run in manifest["runs"] if run["shard"])
    assert not cell.partial.exists()
    assert part_claims(cell.partial) == {}


def test_a_killed_part_leaves_its_replies_and_its_times(whole):
    config, folder, _ = whole
    cell = CellFolder.of("single", config)
    with subprocess.Popen(command("--shard", "1/1"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as run:
        while not (n_there := cell.partial.exists() and len(Replies.found(cell.partial, config.cell_id).places)):
            assert run.poll() is None
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
    assert n_there > 0
    assert list(part_claims(cell.partial).values()) == [Part(1, 1)]
    wait_for_parts(cell.partial, "cell")
    assert part_claims(cell.partial) == {}
    manifest = runner.run_cell(config, cell.partial)
    assert manifest["runs"][0]["shard"] == "1/1"
    assert manifest["runs"][0]["wall_s"] > 0
    assert manifest["resumed_records"] == manifest["runs"][0]["replies"] >= n_there
    assert (cell.partial / RECORDS).read_bytes() == (folder / RECORDS).read_bytes()
