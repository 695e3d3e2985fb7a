"""`index.html` of a profile: figures, table, links to every executed notebook, replies as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from ..files import write_atomic
from ..paths import project_root, results_root
from ..runs.notebooks import execute_notebook, notebook_parameters
from ..runs.profiles import Profile
from ..runs.summary import write_summary
from .reply_pictures import PictureSet, reply_pictures

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem;color:#222}"
    "img{max-width:100%}table{border-collapse:collapse;font-size:13px}td,th{padding:.2rem .6rem;text-align:right;"
    "border-bottom:1px solid #ddd}td:nth-child(-n+3),th:nth-child(-n+3){text-align:left}.missing{color:#a33}"
    "summary{cursor:pointer}details{margin:.6rem 0}"
)
_HEADERS = (
    "model", "benchmark", "method", "budget", "Pass@1 (%)", "95 % interval", "n x k", "truncated (%)", "mean tokens",
    "tokens/s", "peak slots", "KV bytes", "evictions", "wall (s)", "notebook",
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """What was drawn: a row per finished cell, the page, and the number of replies on it."""

    frame: pd.DataFrame
    index: Path
    n_pictures: int


def write_report(profile: Profile, n_pictures: int | None = None) -> Report:
    """Write `summary.csv`, the executed figure notebook and the page; missing cells are drawn as missing.

    Args:
        n_pictures: replies per model and method drawn as text; None leaves it to `pictures.reply_pictures`.

    Raises:
        RunError: a cell's files cannot be read, or the notebook failed.
    """
    frame = write_summary(profile)
    source = project_root() / "notebooks" / f"{profile.notebook}.ipynb"
    known = notebook_parameters(source)
    parameters = {"profile": profile.name, "run_missing": False}
    execute_notebook(
        source, results_root() / profile.name / source.name, {k: v for k, v in parameters.items() if k in known}
    )
    pictures = reply_pictures(profile, set(frame.cell_id), n_pictures)
    return Report(frame, write_index(profile, frame, pictures), sum(len(found.pictures) for found in pictures))


def write_index(profile: Profile, frame: pd.DataFrame, pictures: Sequence[PictureSet] = ()) -> Path:
    """Write the page beside the results it shows; cells without a result are listed as missing.

    Args:
        frame: of `summary.summarise_profile`.
        pictures: of `pictures.reply_pictures`; they are part of the page, which loads nothing for them.
    """
    folder = results_root() / profile.name
    figures = sorted((folder / "figures").glob("*.png"))
    done = {row.cell_id: row for row in frame.itertuples()}
    body = [f"<h1>{escape(profile.title)}</h1>"]
    body.append(
        f"<p>{len(done)} of {len(profile.cells)} cells. Bars: Pass@1, intervals of 95 % clustered by problem. "
        'Table as <a href="summary.csv">summary.csv</a>, figures as '
        f'<a href="{escape(profile.notebook)}.ipynb">notebook</a>.</p>'
    )
    for figure in figures:
        name = escape(figure.name)
        body.append(f'<p><img src="figures/{name}" alt="{escape(figure.stem)}"></p>')
    body.append("<table><tr>" + "".join(f"<th>{escape(h)}</th>" for h in _HEADERS) + "</tr>")
    for config in profile.cells:
        row = done.get(config.cell_id)
        body.append(_row(row) if row is not None else _missing(config))
    body.append("</table>")
    body += _pictures(pictures)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(profile.title)}</title>'
        f"<style>{_STYLE}</style><body>{''.join(body)}</body></html>\n"
    )
    path = folder / "index.html"
    write_atomic(path, page)
    return path


def _pictures(sets: Sequence[PictureSet]) -> list[str]:
    """Replies as text, their tokens shaded and struck; folded but for the first two of each model."""
    if not sets:
        return []
    body = [
        "<h2>What was kept, token by token</h2><p>Replies as text. The darker a thinking token, the more important it "
        "is, by rank within the thought; a struck one was lost at the eviction whose number follows it. Hover for "
        "positions and values.</p>"
    ]
    for found in sets:
        body.append(f"<h3>{escape(found.model)}</h3>")
        if found.note:
            body.append(f'<p class="missing">{escape(found.note)}</p>')
        for number, drawn in enumerate(found.pictures):
            is_open = " open" if number < 2 else ""
            body.append(
                f"<details{is_open}><summary>{escape(drawn.picture.title)}</summary>{drawn.picture.html()}"
                f"<p>{escape(drawn.caption)}</p></details>"
            )
    return body


def _row(row) -> str:
    budget = "" if pd.isna(row.budget_tokens) else str(int(row.budget_tokens))
    cells = (
        row.model, row.benchmark, row.label, budget, f"{row.pass_at_1:.1f}",
        f"{row.pass_at_1_lo:.1f} to {row.pass_at_1_hi:.1f}", f"{row.n_problems} x {row.n_samples}",
        f"{row.truncated_share:.1f}", f"{row.mean_new_tokens:.0f}", f"{row.decode_tps:.0f}", str(row.kv_tokens_peak),
        f"{row.kv_bytes_peak:,}", str(row.evictions), f"{row.wall_s:.0f}",
    )  # fmt: skip
    link = f'<a href="{escape(row.cell_id)}/run.ipynb">run.ipynb</a>'
    return "<tr>" + "".join(f"<td>{escape(c)}</td>" for c in cells) + f"<td>{link}</td></tr>"


def _missing(config) -> str:
    budget = "" if config.budget is None else str(config.budget)
    names = "".join(f"<td>{escape(c)}</td>" for c in (config.model, config.benchmark, config.label, budget))
    return f'<tr class="missing">{names}<td colspan="{len(_HEADERS) - 4}">missing</td></tr>'
