"""Notebooks run in this interpreter, whatever kernels are known on the machine; a silent kernel is one message."""

from __future__ import annotations

import json
import sys

import nbformat
import pytest

from kvrepro.errors import RunError
from kvrepro.runs import notebooks
from kvrepro.runs.notebooks import execute_notebook


@pytest.fixture
def notebook(tmp_path):
    """A notebook that writes down who runs it."""
    found = nbformat.v4.new_notebook()
    found.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cell = nbformat.v4.new_code_cell("target: str = ''  # a file", metadata={"tags": ["parameters"]})
    found.cells = [cell, nbformat.v4.new_code_cell("import sys\nopen(target, 'w').write(sys.executable)")]
    nbformat.write(found, tmp_path / "who.ipynb")
    return tmp_path / "who.ipynb"


@pytest.mark.parametrize("place", ["JUPYTER_PATH", "HOME", "JUPYTER_DATA_DIR"])
def test_a_kernel_of_the_same_name_elsewhere_is_not_taken(notebook, tmp_path, monkeypatch, place):
    planted = tmp_path / "planted"
    monkeypatch.setenv(place, str(planted))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    share = planted / ".local" / "share" / "jupyter" if place == "HOME" else planted
    folder = share / "kernels" / "python3"
    folder.mkdir(parents=True)
    argv = [sys.executable, "-c", "raise SystemExit('the wrong kernel')"]
    (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "x", "language": "python"}))
    execute_notebook(notebook, tmp_path / "run.ipynb", {"target": str(tmp_path / "who")})
    assert (tmp_path / "who").read_text() == sys.executable


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; sys.exit('no module named kernel')", "its last line: no module named kernel"),
        (
            "import sys, time; print('thinking', file=sys.stderr, flush=True); time.sleep(600)",
            "its last line: thinking",
        ),
    ],
    ids=["ends", "is silent"],
)
def test_a_kernel_that_does_not_answer_is_one_message(notebook, tmp_path, monkeypatch, program, said):
    monkeypatch.setattr(notebooks, "kernel_command", lambda: [sys.executable, "-c", program])
    monkeypatch.setattr(notebooks, "START_LIMIT_S", 5)
    with pytest.raises(RunError, match="the kernel python3 does not answer") as caught:
        execute_notebook(notebook, tmp_path / "run.ipynb", {"target": str(tmp_path / "who")})
    message = str(caught.value)
    assert message.startswith("who.ipynb: ") and said in message and sys.executable in message
    assert "\n" not in message


def test_a_kernel_that_dies_in_the_middle_says_its_last_words(notebook, tmp_path):
    content = nbformat.read(notebook, as_version=4)
    content.cells[1].source = "import os, sys\nprint('out of luck', file=sys.__stderr__, flush=True)\nos._exit(1)"
    nbformat.write(content, notebook)
    with pytest.raises(RunError, match="the kernel died, .* its last line: out of luck"):
        execute_notebook(notebook, tmp_path / "run.ipynb", {"target": str(tmp_path / "who")})
