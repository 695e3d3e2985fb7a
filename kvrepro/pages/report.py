"""All that is drawn of a profile: table, executed notebook, the page, a page per cell, the page over all profiles."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..analysis.verdict import verdict
from ..errors import KvreproError
from ..figures.reply_pictures import write_pictures
from ..paths import project_root, results_root
from ..runs.folder import NOTEBOOK, CellFolder, read_manifest
from ..runs.notebooks import execute_notebook, notebook_parameters
from ..runs.profiles import Profile
from ..runs.summary import write_summary
from .index import write_index
from .notebooks import write_notebook
from .overview import SUMMARY, write_overview, write_page_summary
from .replies import write_replies
from .site import write_assets


@dataclass(frozen=True)
class Report:
    """What was drawn: a row per finished cell, the page and what it begins with, the number of replies on it."""

    frame: pd.DataFrame
    index: Path
    verdict: list[str]
    n_pictures: int


def write_report(profile: Profile, n_pictures: int | None = None, out: Path | None = None) -> Report:
    """Write `summary.csv`, the executed figure notebook and the pages; missing cells are drawn as missing.

    Pages of cells that have not changed are left as they are.

    Args:
        n_pictures: replies per model and method drawn as text; None leaves it to `write_pictures`.
        out: folder that all of it goes to, absolute, and results may be read-only; None writes it beside the results,
            and the page over all profiles with it.

    Raises:
        KvreproError: a notebook without the parameter `out` would write beside the results, or `out` holds something
            else than this profile's page.
        RunError: a cell's files cannot be read, or the notebook failed.
    """
    source = project_root() / "notebooks" / f"{profile.notebook}.ipynb"
    known = notebook_parameters(source)
    if out is not None and "out" not in known:
        raise KvreproError(
            f"{source} has no parameter `out`, so it draws beside the results: leave --out off, or add it"
        )
    if out is not None:
        _check_own(profile, out)
        # a page that fails half-way may be written again
        write_page_summary(out, profile, [], 0, None)
    wanted = {"profile": profile.name, "run_missing": False, "out": "" if out is None else str(out)}
    folder = results_root() / profile.name if out is None else out
    frame = write_summary(profile, folder)
    executed = folder / source.name
    execute_notebook(source, executed, {name: value for name, value in wanted.items() if name in known})
    write_assets(folder)
    write_notebook(executed, executed.with_suffix(".html"), f"{profile.title}: {profile.notebook}", back=profile.title)
    write_cells(profile, set(frame.cell_id), folder)
    pictures = write_pictures(profile, set(frame.cell_id), folder, n_pictures)
    lines = verdict(profile, frame)
    index = write_index(profile, frame, folder, pictures, lines, has_overview=out is None)
    ended = [read_manifest(CellFolder.of(profile.name, cell).path).get("ended") for cell in _done(profile, frame)]
    newest = max((end for end in ended if end is not None), default=None)
    write_page_summary(folder, profile, lines, len(frame), newest)
    if out is None:
        write_overview()
    return Report(frame, index, lines, sum(len(found.pictures) for found in pictures))


def _check_own(profile: Profile, out: Path) -> None:
    """Raise `KvreproError` where a page in this folder would overwrite something else."""
    if out.is_relative_to(results_root().resolve()):
        raise KvreproError(f"--out={out} lies among the results: leave --out off, or give a folder elsewhere")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        is_own = json.loads((out / SUMMARY).read_text())["profile"] == profile.name
    except (OSError, ValueError, LookupError, TypeError):
        is_own = False
    if not is_own:
        raise KvreproError(f"--out={out} holds something else than the page of {profile.name}: give an empty folder")


def _done(profile: Profile, frame: pd.DataFrame):
    done = set(frame.cell_id)
    return [cell for cell in profile.cells if cell.cell_id in done]


def write_cells(profile: Profile, done: set[str], folder: Path) -> None:
    """Write the pages of finished cells into `folder/<cell_id>/`: replies, and the executed notebook with its source.

    Args:
        done: ids of the finished cells.
    """
    for config in profile.cells:
        if config.cell_id not in done:
            continue
        source = CellFolder.of(profile.name, config).path / NOTEBOOK
        target = folder / config.cell_id / NOTEBOOK
        write_replies(profile, config, folder)
        if target != source and (not target.is_file() or target.read_bytes() != source.read_bytes()):
            shutil.copyfile(source, target)
        root = "../" * (config.cell_id.count("/") + 1)
        write_notebook(source, target.with_suffix(".html"), f"{config.cell_id}", root, profile.title)
