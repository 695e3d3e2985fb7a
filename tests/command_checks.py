"""How a command line of README and docs is checked: run as it stands, parsed, or held to files and tables."""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from kvrepro import cli
from kvrepro.files import read_yaml
from kvrepro.models.table import MODELS
from kvrepro.runs.profiles import load_profile, profile_names

from .documents import ROOT, Command, blocks

CELL = next(c for c in load_profile("smoke").cells if c.method == "window")
PART = CELL.cell_id.rsplit("/", 1)[0]
# what a page leaves to the reader; the folder of the finished cell stands for the results of a whole grid
PLACEHOLDERS = {
    "PROFILE": "smoke",
    "[PROFILE]": "paper-rehearsal",
    "METHODS": "dynts",
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
        # what README and docs call a file of the reader's own
        [own] = [b.text for b in blocks("python") if b.page == "README.md" and "class KeyNorm" in b.text]
        (folder / "my_method.py").write_text(own.split("kvrepro.generate(")[0])
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
                if "--gpus" in words:
                    # of a box with eight, which this machine need not be
                    patch.setenv("KVREPRO_GPUS", ",".join(map(str, range(8))))
                for name, value in environment:
                    patch.setenv(name, value)
                outside = words[0] != "kvrepro" or words[1] in ("grid", "compare")
                self._done[key] = _program(words) if outside else _in_this_process(words[1:])
        code, out, err = self._done[key]
        assert code == 0, f"{' '.join(words)}: exit code {code}\n{err[-3000:]}"
        if words[0] == "kvrepro":
            # for people, unless a program asks
            assert out.strip() and ("--json" in words) == out.startswith("{")


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


def names_a_plugin(_: Workspace, command: Command) -> None:
    """A package that an executor of ours needs."""
    plugins = {read_yaml(path)["executor"] for path in ROOT.glob("profiles/*/config.yaml")}
    assert command.words[-1] in {f"snakemake-executor-plugin-{plugin}" for plugin in plugins}


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


def names_test_files(_: Workspace, command: Command) -> None:
    # a module as a path
    named = [f"{word.replace('.', '/')}.py" if word.startswith("tests.") else word for word in command.words]
    assert all((ROOT / name).is_file() for name in named if name.startswith("tests/"))
