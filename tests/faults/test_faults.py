"""Some faults at once, at moments that are the same in every run; `python -m tests.faults` has all, at random ones."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys

import pytest

from . import damage, stops, surroundings
from .lab import laboratory
from .processes import server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="commands are forks, which Linux alone has"),
]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with server(tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture
def lab(running, tmp_path):
    with laboratory(tmp_path / "trial", running, random.Random(0), methods=("full", "window")) as found:
        yield found


def right(lab):
    lab.end()
    return lab.wrong == [] or pytest.fail(str(lab.wrong))


def test_a_killed_grid_goes_on_elsewhere_beside_a_newer_clone(lab):
    lab.part_done("SIGKILL")
    for act in (
        surroundings.cut_replies,
        surroundings.put_other_version,
        surroundings.delete_marks,
        surroundings.renew_clone,
        surroundings.copy,
        surroundings.move,
    ):
        act(lab)
    assert right(lab)


def test_damaged_results_are_made_again_and_only_they_and_a_longer_profile_adds_its_cells(lab):
    lab.wait(lab.grid())
    for name in ("byte changed", "records of another cell", "notebook deleted"):
        damage.ACTS[name](lab)
    surroundings.add_budget(lab)
    assert right(lab)


def test_two_grids_at_once_of_which_one_is_killed_make_every_cell_once(lab):
    stops.second_later(lab, "SIGKILL")
    assert right(lab)


def test_parts_of_cells_on_two_devices_are_made_once_each_though_the_grid_is_stopped(lab):
    lab.flags += ["--shards", "2"]
    stops.gpus(lab)
    assert lab.wrong == []


def can_mount(folder):
    """Only root may, and not in every container."""
    mount = shutil.which("mount")
    command = [mount, "-t", "tmpfs", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True


def test_results_on_a_disk_that_cannot_be_written_are_looked_at_and_kept(lab, tmp_path):
    if not can_mount(tmp_path):
        pytest.skip("needs a disk of its own, which only root can mount")
    surroundings.make_read_only(lab)
    assert lab.wrong == []
