"""What a grid says while it runs."""

from __future__ import annotations

import re

import pytest

from kvrepro.grids import display
from kvrepro.grids.display import Display
from kvrepro.grids.folder import GridFolder
from kvrepro.grids.plan import GridSettings, prepare
from kvrepro.runs.profiles import load_profile
from kvrepro.runs.throughput import Panel

from ..cells import write_finished


@pytest.fixture
def smoke():
    """The profile and a grid of it that is prepared."""
    profile = load_profile("smoke")
    grid = GridFolder.new("smoke")
    prepare(grid, profile, profile, Panel.all_of(profile), GridSettings(cores=2, gpus=None, executor=None))
    return profile, grid


def test_each_finished_cell_is_one_line_with_how_many_there_are_and_the_time_left(smoke, capsys):
    profile, grid = smoke
    first, second, third, *_ = profile.cells
    write_finished("smoke", first)
    with Display(grid, profile) as shown:
        shown.look()
        # four cells as long as the first, which took ten seconds, two at a time
        assert capsys.readouterr().err == "1 of 5 cells were there; about 20 s to go\n"
        shown.look()
        assert capsys.readouterr().err == ""
        write_finished("smoke", second)
        write_finished("smoke", third)
        shown.look()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"2/5 {second.cell_id}: Pass@1 50.0 %, 10 s"
    assert lines[1] == f"3/5 {third.cell_id}: Pass@1 50.0 %, 10 s; about 10 s to go"
    assert len(lines) == 2


def test_panels_that_are_measured_after_the_cells_are_counted(smoke, capsys):
    profile, grid = smoke
    [panel] = Panel.all_of(profile)
    for cell in profile.cells:
        write_finished("smoke", cell)
    with Display(grid, profile) as shown:
        shown.look()
        lines = capsys.readouterr().err.splitlines()
        assert lines == ["5 of 5 cells were there", "cells are done; now their throughput, a panel at a time and alone"]
        grid.mark(panel).parent.mkdir(parents=True, exist_ok=True)
        grid.mark(panel).touch()
        shown.look()
        shown.look()
    assert capsys.readouterr().err == "throughput measured in 1 of 1 panels\n"


def test_on_a_terminal_a_bar_stands_below_the_lines_and_guesses_no_time(smoke, capsys, monkeypatch):
    profile, grid = smoke
    monkeypatch.setattr(display.sys.stderr, "isatty", lambda: True, raising=False)
    with Display(grid, profile) as shown:
        shown.look()
        write_finished("smoke", profile.cells[0])
        shown.look()
        shown.bar.refresh()
    err = capsys.readouterr().err
    assert f"1/5 {profile.cells[0].cell_id}: Pass@1 50.0 %, 10 s; about 20 s to go" in err
    assert re.search(r"smoke cells .* 1/6 in 00:00, 0 running, 5 left", err)
    # tqdm's own guess
    assert "it/s" not in err and "<" not in err
