"""docs/reference.md lists what the code has: options, exit codes, variables, parameters, keys, columns, fields."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import signal
import tomllib

import pytest
import yaml

import kvrepro
from kvrepro import cli
from kvrepro.engine import requests
from kvrepro.graders.score import STATUSES
from kvrepro.runs import processes
from kvrepro.runs.profiles import profile_names
from kvrepro.runs.summary import COLUMNS

from .documents import ROOT, code_spans, variables_read


def section(title: str, page: str = "reference.md") -> str:
    """The text below a heading, up to the next one."""
    text = (ROOT / "docs" / page).read_text()
    found = re.split(rf"^#+ {re.escape(title)}\n", text, flags=re.MULTILINE)
    assert len(found) == 2, f"no heading {title!r} in {page}, or two"
    return re.split(r"^#+ ", found[1], flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of each row of the tables in a text, heads left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = {i for i, line in enumerate(lines[1:]) if line.startswith("| ---")}
    kept = [line for i, line in enumerate(lines) if i not in heads and not line.startswith("| ---")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in kept]


def named(text: str) -> list[str]:
    """What the first cells of the tables in a text name."""
    return [span for row in rows(text) for span in code_spans(row[0])]


def subparsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each subcommand."""
    (found,) = [a for a in cli.build_parser()._actions if a.dest == "command"]
    return dict(found.choices)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_options_of_a_command(command):
    actions = [a for a in subparsers()[command]._actions if a.help != argparse.SUPPRESS]
    options = [a.option_strings[0] for a in actions if a.option_strings]
    listed = [span.split()[0] for span in named(section(f"kvrepro {command}"))]
    assert sorted(listed) == sorted(set(options) - {"-h", "--json"})


def test_the_version_is_everywhere_the_same():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert cited["version"] == newest[1] == kvrepro.__version__
    assert [r["url"] for r in cited["references"]] == ["https://arxiv.org/abs/2601.18383"]


def test_the_public_names():
    assert sorted(span.split("(")[0] for span in named(section("Python"))) == sorted(kvrepro.__all__)
    assert all(getattr(kvrepro, name).__doc__ for name in kvrepro.__all__)


def test_the_exit_codes():
    listed = {int(n) for row in rows(section("Exit codes")) for n in re.findall(r"\b\d+\b", " ".join(row[:2]))} - {128}
    signals = {128 + getattr(signal, name) for name in processes.SIGNALS}
    assert listed == {0, 1, 2, cli.OUTPUT_CLOSED, *signals}
    assert cli.INTERRUPTED in signals


def test_the_environment_variables():
    assert sorted(named(section("Environment variables"))) == sorted(variables_read())


def test_the_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(named(section("Extras"))) == sorted(set(project["optional-dependencies"]) - {"dev"})


def test_the_parameters_of_a_cell_and_their_defaults():
    listed = {code_spans(row[0])[0]: row[1].strip("`") for row in rows(section("Parameters of a cell"))}
    fields = {f.name: f.default for f in dataclasses.fields(kvrepro.CellConfig)}
    assert list(listed) == list(fields)
    without = (None, dataclasses.MISSING)
    assert {n: v for n, v in listed.items() if fields[n] not in without} == {
        n: str(v) for n, v in fields.items() if v not in without
    }


def test_the_keys_of_a_profile():
    source = (ROOT / "kvrepro" / "runs" / "profiles.py").read_text()
    written = [re.search(rf"^{name} = \{{(.*?)\}}", source, re.M | re.S)[1] for name in ("_KEYS", "_REHEARSAL_KEYS")]
    keys = [set(re.findall(r'"(\w+)"', text)) for text in written]
    text = section("A profile", "profiles.md")
    listed = named(text)
    assert [set(listed[: len(keys[0])]), set(listed[len(keys[0]) :])] == keys
    shipped = text.split("Shipped:")[1].split(".")[0]
    assert sorted(code_spans(shipped)) == profile_names()


def test_the_columns_of_a_summary():
    assert sorted(named(section("summary.csv"))) == sorted(COLUMNS)


@pytest.mark.model
def test_the_fields_of_records_and_manifest(tmp_path):
    config = kvrepro.CellConfig(
        "tiny-r1-llama", "chain-12", "window", budget=176, n_problems=1, max_new_tokens=40, batch_rows=1
    )
    manifest = kvrepro.run_cell(config, tmp_path)
    [record] = map(json.loads, (tmp_path / "records.jsonl").read_text().splitlines())
    fields, statuses = section("records.jsonl").split("| status | means | score |")
    assert sorted(named(fields)) == sorted(record)
    assert sorted(named(section("manifest.json"))) == sorted(manifest)
    endings = {requests.OK, requests.LENGTH_LIMIT, requests.TRUNCATED, requests.NAN_LOGITS}
    assert set(re.findall(r"^\| `(\w+)` \|", statuses, re.MULTILINE)) == {*STATUSES, *endings}
