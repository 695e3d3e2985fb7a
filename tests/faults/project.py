"""The stand-in project: a profile of a few cells that take a second each, and figures that draw nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nbformat

from ..kill_grid import small_project

PROFILE = "faults"
METHODS, BUDGETS = ("full", "window", "random"), (144, 160, 192)
PROBLEMS, SAMPLES = 2, 2
REPLIES = PROBLEMS * SAMPLES  # of a cell
TEXT = """
title: Cells of a second
notebook: nothing
methods: [{methods}]
# beyond the limit up to which the page generates replies again to draw them
defaults: {{n_problems: {problems}, n_samples: {samples}, max_new_tokens: 2100, batch_rows: 1, window: 32, ratio: 0.75}}
panels:
  - {{model: tiny-r1-llama, benchmark: chain-12, budgets: [{budgets}]}}
"""


def make_project(folder: Path) -> Path:
    """A project whose cells run the package's code around an engine that runs nothing."""
    root = small_project(folder)
    notebook = nbformat.read(root / "notebooks" / "cell.ipynb", as_version=4)
    runs = next(number for number, cell in enumerate(notebook.cells) if "run_cell(config" in cell.source)
    first = "import os\nfrom tests.faults.engine import CELL, install\nos.environ[CELL] = config.cell_id\ninstall()"
    # neither plots nor tables: what the cell is for has happened
    notebook.cells = [*notebook.cells[:runs], nbformat.v4.new_code_cell(first), notebook.cells[runs]]
    nbformat.write(notebook, root / "notebooks" / "cell.ipynb")
    drawn = nbformat.v4.new_code_cell('profile: str = "faults"\nout: str = ""', metadata={"tags": ["parameters"]})
    named = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[drawn], metadata=named), root / "notebooks" / "nothing.ipynb")
    return root


def write_profile(root: Path, budgets: Sequence[int], methods: Sequence[str]) -> None:
    """The profile: a cell of the full cache, and one per other method and budget."""
    values = {"methods": ", ".join(methods), "budgets": ", ".join(map(str, budgets))}
    text = TEXT.format(**values, problems=PROBLEMS, samples=SAMPLES)
    profile_file(root).write_text(text)


def profile_file(root: Path) -> Path:
    """Where the profile is."""
    return root / "nbs_params" / f"{PROFILE}.yaml"
