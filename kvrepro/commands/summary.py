"""`kvrepro summary`: the tidy table, the figures' notebook and the index page of a profile."""

from __future__ import annotations

import argparse
from typing import Any

from ..paths import project_root, results_root
from ..profiles import load_profile

NAME = "summary"
HELP = "write summary.csv, the executed figure notebook and index.html of a profile"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The profile."""
    parser.add_argument("profile")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Draw from what is finished; missing cells are drawn as missing."""
    from ..execution import execute_notebook, notebook_parameters
    from ..report import write_index
    from ..summary import write_summary

    profile = load_profile(args.profile)
    folder = results_root() / profile.name
    frame = write_summary(profile)
    print(frame.drop(columns=["cell_id"]).to_string(index=False, max_colwidth=20))
    source = project_root() / "notebooks" / f"{profile.notebook}.ipynb"
    parameters = {"profile": profile.name, "run_missing": False}
    known = notebook_parameters(source)
    execute_notebook(source, folder / source.name, {k: v for k, v in parameters.items() if k in known})
    index = write_index(profile, frame)
    return {"profile": profile.name, "cells": len(frame), "of": len(profile.cells), "index": str(index)}
