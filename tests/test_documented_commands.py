"""Every command line of README and docs runs, as it stands or in the form that TABLE declares.

A command that no row of TABLE fits fails, and so does a row that fits no command: nothing is forgotten on either side.
"""

from __future__ import annotations

import re
import shutil

import pytest

from kvrepro import cli

from .command_checks import (
    CELL,
    PART,
    Row,
    Workspace,
    as_it_stands,
    downloads_a_model_of_the_table,
    installs_extras,
    instead,
    make_target,
    names_a_file,
    names_a_plugin,
    names_parameters,
    names_test_files,
    names_the_page_of_a_profile,
    parsed,
    parsed_after_launcher,
    shows_help,
    with_more,
)
from .documents import Command, commands, commands_of, named_commands, named_options

# read as a table: command lines on the left, what runs them on the right
TABLE = (
    Row(r"make( .*)?", make_target, "minutes each, and CI's business; what a target runs has its own tests"),
    Row(
        r"papermill notebooks/cell.ipynb .*",
        with_more("-p", "n_problems", "1", "-p", "max_new_tokens", "60"),
        "all problems take a minute",
    ),
    Row(r"papermill notebooks/\w+.ipynb .*", names_parameters, "needs the fetched model and benchmark rows"),
    Row(r"kvrepro list .+", as_it_stands),
    Row(r"kvrepro plan .*", as_it_stands),
    Row(
        r"kvrepro run --set .*",
        with_more("--set", "n_problems=1", "--set", "max_new_tokens=60"),
        "all problems take a minute",
    ),
    Row(
        r"kvrepro run --profile \S+ --cell HASH",
        instead(f"kvrepro run --profile smoke --cell {CELL.hash8}"),
        "the paper's models are not here",
    ),
    Row(
        r"kvrepro run --profile \S+ --cell HASH --shard \d/\d",
        instead(f"kvrepro run --profile smoke --cell {CELL.hash8} --shard 1/2"),
        "the paper's models are not here",
    ),
    Row(r"kvrepro grid .*--executor .*", parsed, "needs a cluster; `make test-slurm` runs it on one"),
    Row(r"kvrepro grid \S+ --dry-run.*", as_it_stands),
    Row(
        r"kvrepro grid (PROFILE|tiny( --cores \d+| --only \S+)?)",
        instead(f"kvrepro grid smoke --cores 1 --only {PART}"),
        "a whole grid takes minutes; the cell is the one that `run --profile` left finished",
    ),
    Row(r"kvrepro grid smollm2", parsed, "needs the fetched model and benchmark rows"),
    Row(r"kvrepro grid paper( .*--(only|gpus).*)?", with_more("--dry-run"), "needs GPUs and the paper's models"),
    Row(r"kvrepro compare .*", with_more("--dry-run"), "minutes; its tests run a small one"),
    Row(r"kvrepro status \S+", as_it_stands),
    Row(
        r"kvrepro throughput \S+.*",
        instead("kvrepro throughput smoke"),
        "minutes, and it needs all cells of a panel; its tests measure small ones",
    ),
    Row(
        r"kvrepro summary \S+( --pictures N| --out FOLDER)?",
        instead("kvrepro summary smoke --pictures 0"),
        "the notebook is what takes time, so once; pictures have tests of their own",
    ),
    Row(r"kvrepro view.*", parsed, "serves until it is stopped; its tests ask it for pages"),
    Row(r"kvrepro grade results/tiny.*|kvrepro grade RECORDS", as_it_stands),
    Row(r"kvrepro power .*", as_it_stands),
    Row(r"kvrepro (traces|labels|train) \S+ --dry-run", as_it_stands),
    Row(
        r"kvrepro (traces|labels|train) \S+( --out \S+)?",
        with_more("--dry-run"),
        "minutes to an hour; the tests of the predictor's chain run it small",
    ),
    Row(
        r"kvrepro calibrate \S+ --text FILE .*",
        instead("kvrepro calibrate tiny-r1-llama --text text.txt --text-tokens 192 --out out/statistics"),
        "the fetched model is not here, and a test writes into no model's folder",
    ),
    Row(
        r"kvrepro train-judge \S+ --text FILE .*",
        instead("kvrepro train-judge tiny-r1-llama --text text.txt --text-tokens 192 --steps 2 --out out/judge"),
        "as for calibrate, and 200 steps take minutes",
    ),
    Row(r"kvrepro (calibrate|train-judge) \S+( --out \S+)?", parsed, "minutes; the lines with --text run"),
    Row(r"kvrepro fetch \S+", parsed, "93 MB from the package index; the tests of fetching convert a stand-in"),
    Row(r"kvrepro rehearse.*", parsed, "10 minutes; the tests of the rehearsal run a cell of it"),
    Row(r"kvrepro bench.*", parsed, "15 minutes; its tests run it small"),
    Row(r"kvrepro gpu-check .*", parsed, "needs a GPU; its tests run the parts that do not"),
    Row(
        r"accelerate launch --module kvrepro .*",
        parsed_after_launcher,
        "several devices; the tests of labels split work",
    ),
    Row(r"python -m kvrepro\..*", shows_help, "minutes each"),
    Row(r"python -m tests\.documented_tables", lambda *_: None, "writes into the pages; test_documented_tables.py"),
    Row(r"python -m pytest .*", names_test_files, "a test that runs tests"),
    Row(r"python tests/frozen.py compare", names_test_files, "a test of its own"),
    Row(r"python tests/cell_overhead.py", names_test_files, "measures, for minutes"),
    Row(r"python -m tests\.browser\.large_page", names_test_files, "needs a browser, and minutes"),
    Row(r"ruff .*", lambda *_: None, "`make lint` runs it; it may be missing where only the tests are installed"),
    Row(r"pip install snakemake-.*", names_a_plugin, "changes the environment that the tests run in"),
    Row(r"pip install .*", installs_extras, "changes the environment that the tests run in"),
    Row(r"hf download \S+ --revision \S+", downloads_a_model_of_the_table, "needs the Hub, 15 GB"),
    Row(r"hf auth login", lambda *_: None, "needs the Hub and a person"),
    Row(r"conda env create -f \S+", names_a_file, "needs conda; test_environment.py reads the file"),
    Row(r"open \S+", names_the_page_of_a_profile, "needs a screen"),
)


def rows_for(command: Command) -> list[Row]:
    return [row for row in TABLE if re.fullmatch(row.pattern, command.text)][:1]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    found = Workspace(tmp_path_factory.mktemp("documentation"))
    found.run(["kvrepro", "run", "--profile", "smoke", "--cell", CELL.hash8])
    return found


def test_every_command_line_has_a_row_and_every_row_a_command_line():
    unknown = [command.text for command in commands() if not rows_for(command)]
    assert not unknown, f"run these or say in TABLE why not: {unknown}"
    used = [row for command in commands() for row in rows_for(command)]
    idle = [row.pattern for row in TABLE if row not in used]
    assert not idle, f"no page has such a command any more: {idle}"


def test_the_command_lines_of_the_pages_are_found():
    script = "A=1 .venv/bin/x run \\\n  --set 'a=b c' && y z|w   # comment\n\n# only a comment\nu | v 1 > file\n"
    assert [(c.text, dict(c.environment)) for c in commands_of(script)] == [
        ("x run --set 'a=b c'", {"A": "1"}),
        ("y z", {}),
        ("y w", {}),
        ("u", {}),
        ("v 1", {}),
    ]
    assert len(commands()) > 20


@pytest.mark.parametrize("command", [c for c in commands() if rows_for(c)], ids=lambda c: c.text)
def test_command_line(workspace, command):
    if command.words[0] == "make" and shutil.which("make") is None:
        pytest.skip("make is not installed")
    rows_for(command)[0].check(workspace, command)


def test_every_subcommand_that_the_text_names_exists_and_every_one_is_named():
    assert named_commands() == set(cli.COMMANDS)


def test_every_option_that_the_text_names_exists():
    (subcommands,) = [a for a in cli.build_parser()._actions if a.dest == "command"]
    parsers = [cli.build_parser(), *subcommands.choices.values()]
    known = {o for parser in parsers for a in parser._actions for o in a.option_strings}
    unknown = {o for o in named_options() if o not in known}
    assert not unknown, f"no command has {unknown}"
