"""`kvrepro status`: what each cell is at, who runs it, what is left, and what lies there that is not counted."""

from __future__ import annotations

import json
import os
import platform
from contextlib import ExitStack

import pytest

from kvrepro.claims import held
from kvrepro.files import write_json
from kvrepro.grids.executors import Job
from kvrepro.grids.folder import GridFolder
from kvrepro.paths import results_root
from kvrepro.runs.folder import MANIFEST, RECORDS, CellFolder
from kvrepro.runs.profiles import load_profile

from ..cells import write_finished

# every finished cell made by hand took 10 s for 4 replies, and so should every other cell of this profile
PROFILE, CELL_S = "smoke", 10.0


@pytest.fixture
def folders() -> list[CellFolder]:
    return load_profile(PROFILE).folders


@pytest.fixture
def status(call):
    """Run the command for people and for programs: its lines, and its JSON object."""

    def run():
        code, out, err = call("status", PROFILE)
        assert code == 0, err
        return out.splitlines(), json.loads(call("status", PROFILE, "--json")[1])

    return run


@pytest.fixture
def claim(monkeypatch):
    """Hold a claim until the test ends, as a process of a scheduler's job would where a job is given."""
    with ExitStack() as stack:

        def take(path, job=None):
            with monkeypatch.context() as patch:
                if job:
                    patch.setenv("SLURM_JOB_ID", job)
                stack.enter_context(held(path, "a test's cell"))

        yield take


def finish(*numbers, **changes):
    cells = load_profile(PROFILE).cells
    for number in numbers:
        path = write_finished(PROFILE, cells[number]).path / MANIFEST
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def reply(folder, n, name="completions.jsonl"):
    folder.partial.mkdir(parents=True, exist_ok=True)
    (folder.partial / name).write_text("{}\n" * n)


def fail(folder):
    folder.failed_notebook.parent.mkdir(parents=True, exist_ok=True)
    folder.failed_notebook.write_text("{}")


def start_grid(claim, folders, **changes):
    """A grid that lives, and is to make these cells."""
    grid = GridFolder.new(PROFILE)
    grid.path.mkdir(parents=True)
    marks = {folder.cell_id: str(grid.mark(folder)) for folder in load_profile(PROFILE).folders}
    plan = {"executor": None, "gpus": None, "cores": 1, "targets": [marks[folder.cell_id] for folder in folders]}
    write_json(grid.plan_file, {**plan, "cells": {name: {"mark": m} for name, m in marks.items()}, **changes})
    claim(grid.lock)
    return grid


@pytest.fixture(autouse=True)
def submit(monkeypatch):
    """Put jobs into a scheduler's queue, which is empty without, whatever the machine that the tests run on has."""

    def queue(jobs):
        monkeypatch.setattr("kvrepro.commands.status.queued_jobs", lambda profile: jobs if profile == PROFILE else ())

    queue(())
    return queue


def job(folder, number, state, host="", part=None, grid="a-grid"):
    """Of a grid that has left its folder, as one that was killed does."""
    left = results_root() / PROFILE / ".grid" / "a-grid"
    left.mkdir(parents=True, exist_ok=True)
    write_json(left / "plan.json", {"executor": "slurm"})
    return Job(str(number), grid, folder.cell_id, part, state, host)


def states(found):
    return [cell["state"] for cell in found["cells"]]


def test_who_runs_a_cell_is_said_with_host_and_job(status, claim, folders):
    claim(folders[1].lock, job="77")
    reply(folders[1], 3)
    lines, found = status()
    assert states(found) == ["left", "running", "left", "left", "left"]
    running = found["cells"][1]
    assert (running["host"], running["pid"], running["job"]) == (platform.node(), os.getpid(), "77")
    assert (running["samples"], running["asked"]) == (3, 4)
    row = ["running", folders[1].cell_id, "3/4", "-", platform.node(), str(os.getpid()), "77"]
    assert row in [line.split() for line in lines]


def test_a_job_that_waits_is_queued_and_one_that_starts_is_running(status, folders, submit):
    jobs = [job(folders[0], 5, "queued"), job(folders[1], 6, "running", "node3")]
    parts = [job(folders[2], 7, "running", "node4", "1-of-2"), job(folders[2], 8, "queued", part="2-of-2")]
    submit([*jobs, *parts])
    lines, found = status()
    assert states(found) == ["queued", "running", "running", "left", "left"]
    assert [cell["job"] for cell in found["cells"][:3]] == ["5", "6", "7"]
    assert [cell["host"] for cell in found["cells"][:3]] == [None, "node3", "node4"]
    assert lines[0] == f"{PROFILE}: 5 cells, 0 done, 2 running, 0 failed, 1 queued, 2 left"
    assert ["running", folders[1].cell_id, "0/4", "-", "node3", "-", "6"] in [line.split() for line in lines]


def test_jobs_of_another_results_folder_are_not_ours(status, folders, submit):
    submit([job(folders[0], 5, "running", "node", grid="elsewhere")])
    assert states(status()[1]) == ["left"] * 5


def test_a_finished_cell_is_done_whatever_is_queued(status, folders, submit):
    finish(0)
    submit([job(folders[0], 5, "queued")])
    _, found = status()
    assert states(found)[0] == "done" and found["queued"] == 0


def test_cells_that_a_living_grid_has_yet_to_begin_are_queued(status, claim, folders):
    for folder in (folders[0], folders[3]):
        fail(folder)
        os.utime(folder.failed_notebook, (1, 1))
    start_grid(claim, folders[:3])
    assert states(status()[1]) == ["queued", "queued", "queued", "failed", "left"]
    # it failed in this grid, which does not come back to it
    fail(folders[1])
    os.utime(folders[1].failed_notebook)
    assert states(status()[1]) == ["queued", "failed", "queued", "failed", "left"]


def test_a_grid_that_was_killed_queues_nothing(status, claim, folders):
    grid = start_grid(lambda lock: None, folders)
    assert grid.plan_file.is_file()
    assert states(status()[1]) == ["left"] * 5


def test_parts_of_a_cell_are_shown_with_their_replies(status, claim, folders):
    folder = folders[2]
    for index, n in ((1, 1), (2, 2)):
        claim(folder.path.with_name(f".{folder.path.name}.shard-{index}of3.lock"), job=str(index))
        reply(folder, n, f"completions-{index}of3-0123456789ab.jsonl")
    lines, found = status()
    cell = found["cells"][2]
    assert (cell["state"], cell["samples"], cell["asked"]) == ("running", 3, 4)
    shards = [(part["shard"], part["replies"], part["job"]) for part in cell["shards"]]
    assert shards == [("1/3", 1, "1"), ("2/3", 2, "2")]
    shown = [line.split()[1:4] for line in lines if line.startswith("running")]
    assert shown == [[folder.cell_id, "1/3", "3/4"], [folder.cell_id, "2/3", "3/4"]]
    assert found["running"] == 1, "a cell counts once"


def test_damaged_results_are_left_and_say_why(status, folders):
    finish(0, 1, 2)
    (folders[0].path / RECORDS).write_text("{}\n")
    (folders[1].path / MANIFEST).write_text("{")
    lines, found = status()
    assert states(found) == ["left", "left", "done", "left", "left"]
    assert found["damaged"] == 2
    assert "1 rows" in found["cells"][0]["damage"] and found["cells"][2]["damage"] is None
    damaged = [line for line in lines if line.startswith("damaged: ")]
    assert [line.split(": ")[1] for line in damaged] == [folders[0].cell_id, folders[1].cell_id]
    assert damaged[0].endswith(found["cells"][0]["damage"])


def test_cells_of_other_versions_are_counted_in_one_line(status, folders):
    finish(0)
    lines, found = status()
    assert found["others"] == 0 and not any("other versions" in line for line in lines)
    path = folders[0].path
    for name in ("00000000", "11111111", f".{path.name}.damaged-1"):
        (path.parent / name).mkdir()
        (path.parent / name / MANIFEST).write_text("{}")
    lines, found = status()
    assert (found["others"], found["done"]) == (2, 1)
    assert "2 cells of other versions or of an edited profile lie beside: they stay as they are, not counted" in lines


def test_what_is_left_is_expected_from_cells_that_are_finished(status):
    finish(0)
    lines, found = status()
    assert found["remaining_s"] == pytest.approx(4 * CELL_S)
    assert found["estimate"] == {"from_cells": 1, "side_by_side": 1, "untold": 0}
    assert lines[1] == "about 40 s to go, 1 side by side, from 1 finished cell"
    finish(1, 2, 3, 4)
    lines, found = status()
    assert found["remaining_s"] == 0 and not any("to go" in line for line in lines)


def test_what_runs_counts_with_what_it_has_left(status, claim, folders):
    finish(0)
    claim(folders[1].lock)
    reply(folders[1], 3)
    # 2.5 s of the one that runs, then three whole ones
    assert status()[1]["remaining_s"] == pytest.approx(3.25 * CELL_S)


def test_the_rest_is_laid_out_on_what_the_living_grids_have(status, claim, folders):
    finish(0)
    start_grid(claim, folders, gpus=["0", "1", "2"], cores=64)
    _, found = status()
    # four cells of 10 s on three devices
    assert found["estimate"]["side_by_side"] == 3 and found["remaining_s"] == pytest.approx(2 * CELL_S)
    start_grid(claim, folders, cores=1)
    assert status()[1]["remaining_s"] == pytest.approx(CELL_S)


def test_on_a_scheduler_what_runs_now_counts(status, claim, folders, submit):
    finish(0)
    start_grid(claim, folders, executor="slurm", cores=100)
    submit([job(folder, 5, "running", "node") for folder in folders[1:3]])
    _, found = status()
    assert found["estimate"]["side_by_side"] == 2 and found["remaining_s"] == pytest.approx(2 * CELL_S)


def test_whole_times_count_and_those_of_last_sessions_do_not(status, folders):
    # resumed under an older version: 1 s is that of its last session
    finish(0, wall_s=1.0, resumed_records=3)
    _, found = status()
    assert found["cells"][0]["wall_s"] is None
    finish(1, wall_s=30.0, resumed_records=3, runs=[{"wall_s": 10.0}, {"wall_s": 20.0}])
    _, found = status()
    assert found["cells"][1]["wall_s"] == 30
    assert found["remaining_s"] == pytest.approx(3 * 30.0)
    # of a run that was killed before it could say how long
    finish(2, wall_s=30.0, runs=[{"wall_s": None}, {"wall_s": 30.0}])
    assert status()[1]["cells"][2]["wall_s"] is None


def test_without_a_finished_cell_nothing_is_said_of_time(status):
    lines, found = status()
    assert found["remaining_s"] is None
    assert lines[1] == "how long the rest takes is not known: no finished cell tells"


def test_models_of_which_no_cell_is_finished_are_left_out_and_said(call):
    cells = load_profile("tiny").cells
    write_finished("tiny", cells[0])
    others = sum(cell.model != cells[0].model for cell in cells)
    assert 0 < others < len(cells)
    _, out, _ = call("status", "tiny")
    found = json.loads(call("status", "tiny", "--json")[1])
    assert found["estimate"]["untold"] == others and found["remaining_s"] > 0
    assert f"without {others} cells, of whose models none is finished" in out.splitlines()[1]


def test_an_older_manifest_has_dashes(status, folders):
    finish(0)
    path = folders[0].path / MANIFEST
    path.write_text(json.dumps({name: json.loads(path.read_text())[name] for name in ("cell_id", "n_records")}))
    lines, found = status()
    assert states(found)[0] == "done" and found["cells"][0]["wall_s"] is None
    assert ["done", folders[0].cell_id, "0/4", "-"] in [line.split() for line in lines]
    assert found["remaining_s"] is None


def test_looking_writes_nothing(status, claim, folders):
    finish(0)
    (folders[1].path.parent).mkdir(parents=True, exist_ok=True)
    claim(folders[1].lock)
    fail(folders[2])
    start_grid(claim, folders)

    def snapshot():
        return {path: path.stat().st_mtime_ns for path in results_root().rglob("*")}

    before = snapshot()
    status()
    assert snapshot() == before
