"""The grid for real, on a project of two short cells: stopped, failing, in parts, beside another one."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time

import pytest

from kvrepro.cli import main
from kvrepro.runs.profiles import load_profile

from ..kill_grid import Grid, small_project

pytestmark = pytest.mark.slow
WAIT_S = 240  # for what a loaded machine does slowly


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The project of this test; its results go below `tmp_path` as those of all tests do."""
    root = small_project(tmp_path / "project")
    monkeypatch.setenv("KVREPRO_ROOT", str(root))
    return root


@pytest.fixture
def grid(project, tmp_path):
    running = Grid(project, tmp_path / "results", cores=1)
    yield running
    for process in running.processes():
        process.kill()


def insert(project, *lines):
    """Have every cell's kernel run these lines before all others."""
    notebook = project / "notebooks" / "cell.ipynb"
    content = json.loads(notebook.read_text())
    first = [cell for cell in content["cells"] if cell["cell_type"] == "code"][1]
    first["source"] = [*(f"{line}\n" for line in lines), *first["source"]]
    notebook.write_text(json.dumps(content))


@pytest.fixture
def held(project):
    """Kernels say that they run, in a file `held` of the project, and go on when there is a file `go`."""
    files = [f"pathlib.Path({str(project / name)!r})" for name in ("held", "go")]
    insert(project, "import pathlib, time", f"{files[0]}.touch()", f"while not {files[1]}.exists(): time.sleep(0.05)")
    return project


def until(condition, grid):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert grid.process.poll() is None, (grid.results / "output").read_text()
        assert time.monotonic() < deadline, "it did not get there"
        time.sleep(0.1)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_grid_that_is_stopped_leaves_no_process(grid, held, name):
    grid.start()
    until((held / "held").exists, grid)
    grid.process.send_signal(getattr(signal, name))
    assert grid.left() == []
    assert grid.process.wait() == 128 + getattr(signal, name)
    output = (grid.results / "output").read_text()
    assert "what was finished is kept" in output and "Traceback" not in output
    # stopped is not failed
    assert not (grid.results / "two" / "failed").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="children learn at once of a killed parent on Linux only")
def test_a_grid_that_is_killed_keeps_its_cells_and_the_second_run_completes(grid, held):
    grid.start()
    until((held / "held").exists, grid)
    (held / "held").unlink()
    (held / "go").touch()
    until(lambda: len(grid.complete()) == 1, grid)
    (held / "go").unlink()
    until((held / "held").exists, grid)
    before = grid.complete()
    grid.process.kill()
    assert grid.left() == []
    (held / "go").touch()
    assert grid.start().wait(WAIT_S) == 0, (grid.results / "output").read_text()
    assert len(grid.complete()) == 2
    # neither deleted nor run again
    assert all(grid.complete()[cell] == state for cell, state in before.items())


def of_the_server(grid):
    """The fork server of a grid, and its forks by age: cells and their kernels."""
    found = [process for process in grid.processes() if "kvrepro.runs.fork_server" in process.cmdline()]
    pids = {process.pid for process in found}
    server = next(process for process in found if process.ppid() not in pids)
    return server, sorted(server.children(), key=lambda process: process.create_time())


def ask_for_throughput(project, rounds):
    """Let the profile measure; a pass makes five rounds."""
    path = project / "nbs_params" / "two.yaml"
    kept = [line for line in path.read_text().splitlines() if not line.startswith("throughput")]
    path.write_text("\n".join([*kept, f"throughput: {{rounds: {rounds}, rows: 1, turn_tokens: 4}}\n"]))


@pytest.mark.skipif(sys.platform != "linux", reason="children learn at once of a killed parent on Linux only")
def test_a_measurement_that_is_killed_leaves_nothing_and_is_made_again_as_is_one_that_was_deleted(grid, project):
    folder = grid.results / "two" / "throughput" / "tiny-r1-llama"
    ask_for_throughput(project, 5000)
    grid.start()
    until(
        lambda: any("kvrepro throughput two --panel tiny-r1-llama/chain-12" in line for line in grid.commands()), grid
    )
    # both cells are there, and nothing runs beside the measurement
    before = grid.complete()
    assert len(before) == 2 and of_the_server(grid)[1] == []
    grid.process.kill()
    assert grid.left() == []
    assert not folder.exists()
    ask_for_throughput(project, 5)
    for _ in range(2):
        assert grid.start().wait(WAIT_S) == 0, (grid.results / "output").read_text()
        assert [path.name for path in folder.iterdir()] == ["chain-12.json"]
        found = json.loads((folder / "chain-12.json").read_text())
        assert found["rounds"] == 5 and set(found["cells"]) == {cell.cell_id for cell in load_profile("two").cells}
        (folder / "chain-12.json").unlink()
    assert grid.complete() == before


@pytest.mark.skipif(sys.platform != "linux", reason="the fork server is Linux only")
def test_a_kernel_that_is_killed_is_one_failed_cell(grid, held):
    grid.start()
    until((held / "held").exists, grid)
    _, (_, kernel) = of_the_server(grid)
    kernel.kill()
    (held / "go").touch()
    assert grid.process.wait(WAIT_S) == 1
    assert len(grid.complete()) == 1
    failed = [line for line in (grid.results / "output").read_text().splitlines() if line.startswith("failed: ")]
    assert len(failed) == 1 and "was killed by SIGKILL, often for lack of memory" in failed[0]


@pytest.mark.skipif(sys.platform != "linux", reason="the fork server is Linux only")
def test_a_grid_whose_fork_server_is_killed_goes_on_without_it(grid, held):
    grid.start()
    until((held / "held").exists, grid)
    of_the_server(grid)[0].kill()
    (held / "go").touch()
    assert grid.process.wait(WAIT_S) == 0, (grid.results / "output").read_text()
    assert len(grid.complete()) == 2
    logs = [log.read_text() for log in (grid.results / "two" / "logs").glob("tiny-*")]
    # the cell that ran went on, the other one and its kernel started by themselves
    assert sorted(log.count("no fork server") for log in logs) == [0, 2]
    assert grid.left() == []


def test_a_second_grid_beside_a_running_one_says_so_and_waits_for_its_cells(grid, held, tmp_path):
    grid.start()
    until((held / "held").exists, grid)
    output = tmp_path / "second"
    with output.open("w") as out:
        second = subprocess.Popen(grid.command, env=grid.environment, stdout=out, stderr=out)
    until(lambda: f"another grid of two runs ({platform.node()}-{grid.process.pid}-" in output.read_text(), grid)
    assert second.poll() is None
    (held / "go").touch()
    assert grid.process.wait(WAIT_S) == second.wait(WAIT_S) == 0, output.read_text()
    assert len(grid.complete()) == 2


def test_a_part_is_run_and_drawn(project, capfd):
    # for this it was called through another command's `run`, with arguments that did not fit
    code = main(["grid", "two", "--cores", "1", "--only", "tiny-r1-llama/chain-12/full", "--json"])
    out, err = capfd.readouterr()
    assert code == 0, err
    shown = json.loads(out)
    assert (shown["cells"], shown["done"]) == (1, 1)
    with open(shown["index"]) as page:
        text = page.read()
    assert "1 of 2 cells" in text
    # a profile that has neither a committed table nor throughput says so, and where it ran
    none, ran = shown["verdict"]
    assert none == "1 of 2 cells are finished; no numbers are committed to compare with."
    assert ran.startswith("Run 20") and none in text and ran in text
    # and to people with the table of what is finished
    assert main(["grid", "two", "--cores", "1", "--only", "tiny-r1-llama/chain-12/full"]) == 0
    table, _, told = capfd.readouterr().out.partition("1 of 1 cells done")
    assert [line.split()[0] for line in table.splitlines()[-3:]] == ["method", "tiny-r1-llama,", "full"]
    assert ran in told


def test_a_failed_cell_is_one_line_with_its_reason_and_the_rest_is_drawn(project, capfd):
    ask_for_throughput(project, 5)
    insert(project, "assert method != 'window', 'no windows today'")
    code = main(["grid", "two", "--cores", "1", "--json"])
    out, err = capfd.readouterr()
    assert code == 1
    assert json.loads(out)["done"] == 1
    failed = [line for line in err.splitlines() if line.startswith("failed: ")]
    window = next(cell for cell in load_profile("two").cells if cell.method == "window")
    assert len(failed) == 1 and failed[0].startswith(f"failed: {window.cell_id}: ")
    assert "AssertionError: no windows today (log: " in failed[0]
    assert "not measured: throughput of tiny-r1-llama/chain-12 needs all its replies: 1 of 2 cells" in err
    assert "Snakemake" not in err and "Traceback" not in err


def test_flags_that_snakemake_does_not_know_are_one_message(project, capfd):
    (project / "nbs_params" / "one.yaml").write_text((project / "nbs_params" / "two.yaml").read_text())
    code = main(["grid", "one", "--snakemake=--no-such-flag"])
    _, err = capfd.readouterr()
    assert code == 1
    assert "unrecognized arguments: --no-such-flag (log: " in err
    assert "Traceback" not in err
