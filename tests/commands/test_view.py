"""`kvrepro view`: says where, serves real pictures, ends by a signal in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
import webbrowser

import pytest

from kvrepro.cli import main
from kvrepro.commands import view
from kvrepro.paths import results_root
from kvrepro.runs.config import CellConfig
from kvrepro.runs.folder import CellFolder
from kvrepro.runs.runner import run_cell

CELL = CellConfig(
    "tiny-r1-llama", "chain-12", "dynts", 140, window=32, ratio=0.75, n_problems=1, max_new_tokens=80, batch_rows=1
)


@pytest.fixture
def results():
    root = results_root()
    for name in ("tiny", "old"):
        (root / name).mkdir(parents=True)
        (root / name / "index.html").write_text(f"page of {name}")
    return root


def started(*words):
    """The command as a process, and its first line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kvrepro", "view", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline()


def ended(process, number=signal.SIGINT):
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def read(url):
    # a proxy of the environment is none of ours
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=120) as answer:
        return answer.read().decode()


@pytest.mark.skipif(os.name != "posix", reason="signals to another process are sent as on Unix")
def test_it_serves_a_real_picture_until_ctrl_c(results):
    folder = CellFolder.of("tiny", CELL).path
    run_cell(CELL, folder)
    process, line = started("tiny", "--no-browser")
    try:
        url = line.split()[0]
        assert line == f"{url} shows {results}; Ctrl-C ends it\n"
        assert url.endswith("/tiny/")
        assert read(url) == "page of tiny"
        made = read(f"{url}{CELL.cell_id}/pictures/chain-12-000-0.js")
        assert "The reply in records.jsonl." in made
        assert (folder / "pictures" / "chain-12-000-0.js").read_text() == made
    finally:
        code, out, err = ended(process)
    assert (code, out) == (130, "")
    assert err.endswith("kvrepro view: stopped; what was finished is kept, the same command goes on\n")
    assert "Traceback" not in err


@pytest.mark.skipif(os.name != "posix", reason="signals to another process are sent as on Unix")
def test_with_json_the_one_object_says_where(results):
    (results / "index.html").write_text("all pages")
    process, line = started("--no-browser", "--json")
    found = json.loads(line)
    try:
        assert found["results"] == str(results)
        assert read(found["url"]) == "all pages"
    finally:
        assert ended(process, signal.SIGTERM)[:2] == (143, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["smoke"], "'smoke' has no page in {root}: `kvrepro summary smoke` makes it"),
        (["tini"], "'tini' has no page in {root}: `kvrepro summary tini` makes it (did you mean 'tiny'?)"),
        (["single"], "{root}/single holds cells of no profile, which have no page: open the run.ipynb of one"),
        (["../results/tiny"], "'../results/tiny' has no page in {root}"),
        ([], "no page over all profiles: `kvrepro summary PROFILE` makes it, or name one that has a page: old, tiny"),
        (["tiny", "--port", "0"], "--port=0: a port is a number from 1 to 65535"),
    ],
)
def test_what_cannot_be_shown_is_one_line(results, capsys, words, message):
    (results / "single" / "tiny-r1-llama").mkdir(parents=True)
    assert main(["view", "--no-browser", *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message.format(root=results) in err


def test_only_a_browser_with_windows_is_opened(monkeypatch):
    windows = webbrowser.BackgroundBrowser("firefox")
    for found, expected in ((windows, windows), (webbrowser.GenericBrowser("w3m"), None)):
        monkeypatch.setattr(webbrowser, "get", lambda found=found: found)
        assert view._browser() is expected

    def none():
        raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(webbrowser, "get", none)
    assert view._browser() is None
