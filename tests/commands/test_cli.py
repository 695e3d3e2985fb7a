"""The command line: exit codes, one JSON object last, and messages that list what would have been valid."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from kvrepro.benchmarks.generated import GENERATED
from kvrepro.cli import COMMANDS, main
from kvrepro.paths import PACKAGE, results_root
from kvrepro.runs.config import FIELD_NAMES, CellConfig
from kvrepro.runs.folder import CellFolder

from ..cells import write_finished

CELL = ["--set", "model=tiny-r1-llama", "--set", "benchmark=chain-12"]


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        ("models", {"tiny-r1-llama", "tiny-r1-qwen", "r1-llama", "r1-qwen"}),
        ("benchmarks", set(GENERATED)),
        ("methods", {"full", "window", "question_window", "random", "dynts"}),
        ("profiles", {"smoke"}),
    ],
)
def test_list_prints_a_table_and_nothing_for_programs(call, kind, known):
    code, out, _ = call("list", kind)
    head, *table = out.splitlines()
    rows = json.loads(call("list", kind, "--json")[1])[kind]
    assert code == 0
    assert known <= {row["name"] for row in rows}
    assert head.split()[0] == "name" and len(table) == len(rows)
    assert all(line.startswith(row["name"]) for line, row in zip(table, rows, strict=True))


@pytest.mark.parametrize("kind", ["models", "methods", "profiles"])
def test_json_prints_nothing_but_one_object(call, kind):
    code, out, _ = call("list", kind, "--json")
    assert code == 0
    assert len(out.splitlines()) == 1
    assert json.loads(out)[kind]


def test_module_runs_as_a_program_and_starts_without_torch():
    code = "import sys; from kvrepro.cli import main; main(['list', 'models', '--json']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"
    done = subprocess.run(
        [sys.executable, "-m", "kvrepro", "run", "--cell", "x"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("kvrepro run: --cell")


def test_a_cell_of_a_grid_loads_torch_in_its_kernel_only():
    """The grid has looked at the cell, and torch once more beside it would cost every cell seconds."""
    config = CellConfig(model="tiny-r1-llama", benchmark="chain-12")
    write_finished("single", config)
    arguments = ["run", *CELL, "--checked"]
    code = f"import sys; from kvrepro.cli import main; print(main({arguments!r})); print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[0] == "complete" and shown.splitlines()[-2:] == ["0", "False"]


def test_the_help_of_every_command_loads_nothing_slow_and_that_of_all_of_them_none():
    code = (
        "import sys; from kvrepro import cli; cli.build_parser(['--help'])\n"
        "print([m for m in sys.modules if m.startswith('kvrepro.commands.')]); cli.build_parser()\n"
        "print([m for m in ('numpy', 'pandas', 'torch', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]"]


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["list"], ["list", "nonsense"], ["grid"], ["status"], ["summary"], ["run", "--cores", "2"]],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: kvrepro" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "command", "meant"),
    [
        (["lst", "models"], "kvrepro", "'list'"),
        (["list", "method"], "kvrepro list", "'methods'"),
        (["grid", "smoke", "--olny", "x"], "kvrepro grid", "'--only'"),
    ],
)
def test_a_misspelt_command_choice_or_option_is_answered_with_the_right_one(capsys, arguments, command, meant):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"{command}: error: ") and last.endswith(f"(did you mean {meant}?)")


def test_what_resembles_nothing_gets_no_suggestion(call):
    assert "did you mean" not in call("status", "zzz")[2]


def test_version_is_that_of_the_package_and_of_its_metadata(capsys):
    import tomllib

    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    declared = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]["version"]
    assert (caught.value.code, capsys.readouterr().out) == (0, f"kvrepro {declared}\n")


@pytest.mark.parametrize("name", ["KVREPRO_ROOT", "KVREPRO_DATA", "KVREPRO_MODELS"])
def test_an_environment_variable_that_names_nothing_is_refused_by_name(call, monkeypatch, tmp_path, name):
    monkeypatch.setenv(name, str(tmp_path / "absent"))
    code, out, err = call("list", "profiles")
    assert (code, out) == (2, "")
    assert err.startswith(f"kvrepro list: {name}={tmp_path / 'absent'}: there is no such ")


def test_a_root_without_parameter_files_is_refused_and_lists_nothing(call, monkeypatch, tmp_path):
    monkeypatch.setenv("KVREPRO_ROOT", str(tmp_path))
    code, out, err = call("list", "profiles")
    assert (code, out) == (2, "")
    assert f"{tmp_path} has no folder nbs_params: set KVREPRO_ROOT" in err


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["list", "methods"], ["list", "methods", "--json"]])
def test_a_reader_that_goes_away_ends_the_program_without_a_word(arguments, unbuffered):
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-m", "kvrepro", *arguments]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, env=environment, text=True, check=False)
    os.close(writing)
    # what a shell says of a program that the closed pipe ended
    assert (done.returncode, done.stderr) == (128 + 13, "")


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_a_pipe_that_breaks_inside_a_command_is_an_error(call, monkeypatch, json_flag):
    def broken(kind):
        raise BrokenPipeError(32, "Broken pipe", "worker")

    monkeypatch.setattr("kvrepro.commands.list._models", lambda: broken("models"))
    code, out, err = call("list", "models", *json_flag)
    assert (code, out) == (1, "")
    assert "Broken pipe" in err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a full device")
def test_a_full_disk_is_one_line_and_exit_code_1():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "kvrepro", "list", "models"]
        environment = {**os.environ, "PYTHONUNBUFFERED": ""}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["kvrepro: [Errno 28] No space left on device"]


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "'model' is missing"),
        (["run", *CELL, "--set", "budgets=3"], ", ".join(sorted(FIELD_NAMES))),
        (["run", *CELL, "--set", "budget"], "--set budget: expected NAME=VALUE"),
        (["run", *CELL, "--set", "budget=["], "--set budget=[: "),
        (["run", *CELL, "--set", "temperature=1e-3"], "write 1.0e-3"),
        (["run", *CELL, "--set", "n_samples=yes"], "n_samples=True is bool, expected int"),
        (["run", *CELL, "--set", "method=windw", "--set", "budget=9"], "dynts, dynts_bottom"),
        (["run", *CELL, "--set", "method=window"], "'window' needs a budget"),
        (["run", "--set", "model=nonsense", "--set", "benchmark=chain-12"], "tiny-r1-llama, tiny-r1-qwen"),
        (["run", "--set", "model=tiny-r1-llama", "--set", "benchmark=nonsense"], "chain-12, chain-23"),
        (["run", "--cell", "00000000"], "give --profile as well"),
        (["run", "--profile", "smoke", "--cell", "00000000"], "tiny-r1-llama/chain-12/full-none/"),
        (["run", "--profile", "smoke"], "add --cell with an id or the hash it ends in, such as tiny-r1-llama/chain-12"),
        (["run", "--profile", "smoke", "--set", "seed=1"], "`kvrepro grid smoke --dry-run` prints all"),
        (["run", "--profile", "smoek", *CELL, "--dry-run"], "unknown profile 'smoek'; known: "),
        (["run", "--profile", "smoek", "--cell", "x"], "unknown profile 'smoek'; known: "),
        (["status", "smoek"], "unknown profile 'smoek'; known: "),
        (["status", "smoek"], "(did you mean 'smoke'?)"),
        (["run", *CELL, "--set", "temprature=1"], "(did you mean 'temperature'?)"),
        (["plan", "--profile", "smoke", "--gpu", "H100"], "(did you mean 'h100'?)"),
        (["summary", "smoek"], "unknown profile 'smoek'; known: "),
        (["grid", "smoek"], "unknown profile 'smoek'; known: "),
        (["grid", "smoke", "--cores", "0"], "--cores 0: must be at least 1"),
        (["grid", "smoke", "--only", "r1-qwen"], "no cell of smoke starts so; panels are tiny-r1-llama/chain-12"),
        (["train", "nonsense"], "tiny-r1-llama, tiny-r1-qwen"),
    ],
)
def test_a_request_that_cannot_be_met_exits_with_2_and_says_what_is_known(call, arguments, message):
    code, out, err = call(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith(f"kvrepro {arguments[0]}: ")
    assert message in err


def test_status_counts_cells_and_estimates_the_rest(call):
    from kvrepro.runs.profiles import load_profile

    cells = load_profile("smoke").cells
    write_finished("smoke", cells[0])
    partial = CellFolder.of("smoke", cells[1]).partial
    partial.mkdir(parents=True)
    (partial / "completions-whole-1.jsonl").write_text("{}\n{}\n")
    failed = results_root() / "smoke" / "failed" / f"{cells[2].cell_id.replace('/', '_')}.ipynb"
    failed.parent.mkdir(parents=True)
    failed.write_text("{}")
    code, out, _ = call("status", "smoke")
    shown = json.loads(call("status", "smoke", "--json")[1])
    assert code == 0
    assert (shown["done"], shown["running"], shown["failed"], shown["left"]) == (1, 0, 1, len(cells) - 2)
    assert [c["cell_id"] for c in shown["cells"]] == [c.cell_id for c in cells]
    assert shown["cells"][1]["samples"] == 2
    assert shown["remaining_s"] > 0
    assert out.splitlines()[0].startswith(f"smoke: {len(cells)} cells, 1 done, 0 running, 1 failed")
    assert ["left", cells[1].cell_id] in [line.split()[:2] for line in out.splitlines()]


def test_status_of_an_untouched_profile_has_no_estimate(call):
    code, out, _ = call("status", "smoke", "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["remaining_s"] is None
    assert shown["left"] == len(shown["cells"])


def test_grid_dry_run_lists_the_cells(call, monkeypatch):
    from kvrepro.runs.profiles import load_profile

    monkeypatch.setattr(subprocess, "run", lambda command, **kwargs: subprocess.CompletedProcess(command, 0))
    code, out, err = call("grid", "smoke", "--dry-run")
    assert code == 0, err
    first, head, *rows = out.splitlines()
    cells = load_profile("smoke").cells
    assert first.startswith(f"smoke: {len(cells)} cells, {len(cells)} to run") and head.split()[:2] == ["state", "cell"]
    assert [row.split()[:2] for row in rows] == [["left", cell.cell_id] for cell in cells]


def test_grid_dry_run_accepts_the_snakefile_and_prints_nothing_but_json(capfd):
    # Snakemake is a child process that writes past `sys.stdout`, so the file descriptor is watched
    code = main(["grid", "smoke", "--dry-run", "--json"])
    out, err = capfd.readouterr()
    assert code == 0, err
    assert json.loads(out)["profile"] == "smoke"


def test_grid_only_plans_the_cells_that_were_asked_for(capfd):
    code = main(["grid", "smoke", "--only", "tiny-r1-llama/chain-12/window", "--dry-run", "--json"])
    out, err = capfd.readouterr()
    assert code == 0
    assert json.loads(out)["cells"] == 1
    counts = dict(line.split() for line in err.splitlines() if len(line.split()) == 2)
    assert counts["cell"] == "1" and "figures" not in counts
