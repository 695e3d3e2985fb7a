"""`index.html` of a profile: figures, table, links to every executed notebook, replies as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from ..analysis.budget_findings import budget_findings
from ..analysis.verdict import verdict
from ..errors import KvreproError
from ..files import write_atomic
from ..paths import project_root, results_root
from ..runs.config import CellConfig
from ..runs.notebooks import execute_notebook, notebook_parameters
from ..runs.profiles import Profile
from ..runs.summary import write_summary
from .reply_pictures import PictureSet, write_pictures
from .token_picture import SCRIPT, STYLE, script_json

_META = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem;color:#222}"
    ".figure{overflow-x:auto}img{max-width:100%}@media(max-width:56rem){img{max-width:56rem}}"
    "table{border-collapse:collapse;font-size:13px}td,th{padding:.2rem .4rem;text-align:right;"
    "border-bottom:1px solid #ddd}td:nth-child(-n+3),th:nth-child(-n+3){text-align:left}.missing{color:#a33}"
    "summary{cursor:pointer}details{margin:.6rem 0}.verdict{margin:.3rem 0}h1+.verdict{font-weight:600}"
)
_NAMES = ("model", "benchmark", "method", "budget")
# header -> a finished cell's value, from its row of the summary
_VALUES = {
    "Pass@1 (%)": "{0.pass_at_1:.1f}",
    "95 % interval": "{0.pass_at_1_lo:.1f} to {0.pass_at_1_hi:.1f}",
    "n x k": "{0.n_problems} x {0.n_samples}",
    "truncated (%)": "{0.truncated_share:.1f}",
    "mean tokens": "{0.mean_new_tokens:.0f}",
    "tokens/s": "{0.decode_tps:,.0f}",
    "95 %": "{0.decode_tps_lo:,.0f} to {0.decode_tps_hi:,.0f}",
    "peak slots": "{0.kv_tokens_peak}",
    "KV bytes": "{0.kv_bytes_peak:,}",
    "evictions": "{0.evictions}",
    "wall (s)": "{0.wall_s:.0f}",
}
_DASH = "\N{EN DASH}"  # what was not measured


@dataclass(frozen=True)
class Report:
    """What was drawn: a row per finished cell, the page and what it begins with, the number of replies on it."""

    frame: pd.DataFrame
    index: Path
    verdict: list[str]
    n_pictures: int


def write_report(profile: Profile, n_pictures: int | None = None, out: Path | None = None) -> Report:
    """Write `summary.csv`, the executed figure notebook and the page; missing cells are drawn as missing.

    Args:
        n_pictures: replies per model and method drawn as text; None leaves it to `write_pictures`.
        out: folder that all of it goes to, absolute, and results may be read-only; None writes it beside the results.

    Raises:
        KvreproError: a notebook without the parameter `out` would write beside the results.
        RunError: a cell's files cannot be read, or the notebook failed.
    """
    source = project_root() / "notebooks" / f"{profile.notebook}.ipynb"
    known = notebook_parameters(source)
    if out is not None and "out" not in known:
        raise KvreproError(
            f"{source} has no parameter `out`, so it draws beside the results: leave --out off, or add it"
        )
    wanted = {"profile": profile.name, "run_missing": False, "out": "" if out is None else str(out)}
    folder = results_root() / profile.name if out is None else out
    frame = write_summary(profile, folder)
    execute_notebook(source, folder / source.name, {name: value for name, value in wanted.items() if name in known})
    pictures = write_pictures(profile, set(frame.cell_id), folder, n_pictures)
    lines = verdict(profile, frame)
    index = write_index(profile, frame, pictures, lines, out)
    return Report(frame, index, lines, sum(len(found.pictures) for found in pictures))


def write_index(
    profile: Profile,
    frame: pd.DataFrame,
    pictures: Sequence[PictureSet] = (),
    lines: Sequence[str] = (),
    out: Path | None = None,
) -> Path:
    """Write the page beside the results it shows, or into `out`; cells without a result are listed as missing.

    Args:
        frame: of `summary.summarise_profile`.
        pictures: of `write_pictures`; the page loads their files.
        lines: of `verdict`; the page begins with them.
    """
    results, title = results_root() / profile.name, escape(profile.title)
    folder = results if out is None else out
    # a page that lies elsewhere links to where the results are now
    cells = "" if out is None else f"{results.as_uri()}/"
    done = {row.cell_id: row for row in frame.itertuples()}
    body = [
        f"<h1>{title}</h1>",
        *(f'<p class="verdict">{escape(line)}</p>' for line in lines),
        f"<p>{len(done)} of {len(profile.cells)} cells. Bars: Pass@1, intervals of 95 % clustered by "
        'problem. Table as <a href="summary.csv">summary.csv</a>, figures as '
        f'<a href="{escape(profile.notebook)}.ipynb">notebook</a>.'
        + (f" Links to cells are absolute: the results lie in {escape(str(results))}.</p>" if cells else "</p>"),
        *(
            f'<p class="figure"><img src="figures/{escape(figure.name)}" alt="{escape(figure.stem)}"></p>'
            for figure in sorted((folder / "figures").glob("*.png"))
        ),
        *_sentences(profile),
        f"<table><tr>{_fields('th', *_NAMES, *_VALUES, 'notebook')}</tr>",
        *(_row(cell, done.get(cell.cell_id), cells) for cell in profile.cells),
        "</table>",
        *_pictures(pictures),
    ]
    path = folder / "index.html"
    head = f"{_META}<title>{title}</title><style>{_STYLE}</style>"
    write_atomic(path, f'<!doctype html><html lang="en">{head}<body>{"".join(body)}</body></html>\n')
    return path


def _sentences(profile: Profile) -> list[str]:
    """What the figures above them show, panel by panel."""
    if profile.notebook != Profile.notebook or not (found := budget_findings(profile)):
        return []
    return ["<ul>", *(f"<li>{escape(panel.sentence)}</li>" for panel in found), "</ul>"]


def _pictures(sets: Sequence[PictureSet]) -> list[str]:
    """Replies as text, their tokens shaded and struck, question by question."""
    if not sets:
        return []
    body = [
        f"<style>{STYLE.read_text()}</style><script>{SCRIPT.read_text()}</script>"
        "<h2>What was kept, token by token</h2><p>Replies as text. The darker a thinking token, the more important it "
        "is, by rank within the thought; a struck one was lost at the eviction whose number stands below it.</p>"
    ]
    for found in sets:
        note = f'<p class="missing">{escape(found.note)}</p>' if found.note else ""
        body.append(f"<h3>{escape(found.model)}</h3>{note}")
        for row in found.rows:
            sources = script_json([picture.src for picture in row])
            body.append(
                "<div></div><script>kvrepro.load(document.currentScript.previousElementSibling, "
                f'{sources}, "Not drawn.")</script>'
            )
    return body


def _row(config: CellConfig, done, place: str) -> str:
    """A cell's line of the table; `done` is its row of the summary, None where missing, `place` where links begin."""
    names = _fields("td", config.model, config.benchmark, config.label, "" if config.budget is None else config.budget)
    if done is None:
        return f'<tr class="missing">{names}<td colspan="{len(_VALUES) + 1}">missing</td></tr>'
    values = _fields("td", *(_DASH if "nan" in (text := form.format(done)) else text for form in _VALUES.values()))
    return f'<tr>{names}{values}<td><a href="{escape(place + config.cell_id)}/run.ipynb">run.ipynb</a></td></tr>'


def _fields(tag: str, *values: object) -> str:
    return "".join(f"<{tag}>{escape(str(value))}</{tag}>" for value in values)
