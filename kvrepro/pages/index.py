"""`index.html` of a profile: the verdict, figures, a table of all cells with links to their pages, differences."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from ..analysis.budget_findings import budget_findings
from ..figures.reply_pictures import PictureSet
from ..models.table import model_entry
from ..runs.config import CellConfig
from ..runs.profiles import Profile
from .differences import Differences, paired_differences
from .site import SELF_CONTAINED, render, stamp_of, write_page
from .tables import CHOICE, NUMBER, TEXT, Field, Link, Row, Table, column, method_names

# a name a line would be as long as a function
_HEADS = (
    column("model", CHOICE), column("benchmark", CHOICE), column("method", TEXT),
    column("budget", CHOICE, is_number=True), column("Pass@1 (%)", NUMBER), column("95 % interval"),
    column("n x k", CHOICE, is_number=True), column("truncated (%)", NUMBER), column("mean tokens", NUMBER),
    column("tokens/s", NUMBER), column("95 %"), column("peak slots", NUMBER), column("KV bytes", NUMBER),
    column("evictions", NUMBER), column("wall (s)", NUMBER), column("notebook", is_number=False),
)  # fmt: skip
# figures that are not a model's or a comparison's, in the words of their notebooks
_CAPTIONS = {
    "average": "Average over models and benchmarks",
    "pinning": "Pinning the question",
    "ablation_bars": "What is kept",
    "window_ratio": "Local window and ratio",
}
# the full cache is sorted as the largest
_NO_BUDGET = Field("none", key=float(1 << 62), is_number=True)


def write_index(
    profile: Profile,
    frame: pd.DataFrame,
    folder: Path,
    pictures: Sequence[PictureSet] = (),
    lines: Sequence[str] = (),
    *,
    has_overview: bool = True,
) -> Path:
    """Write the page into the folder; cells without a result are listed as missing.

    Args:
        frame: of `summary.summarise_profile`.
        pictures: of `write_pictures`; the page loads their files.
        lines: of `verdict`; the page begins with them.
        has_overview: whether a page over all profiles lies one folder up.
    """
    differences = paired_differences(profile)
    captions = _captions(profile, differences)
    html = render(
        "index.html.j2",
        title=profile.title,
        verdict=lines,
        done=len(frame),
        of=len(profile.cells),
        notebook=profile.notebook,
        figures=[_figure(path, captions) for path in _figure_files(profile, folder)],
        sentences=_sentences(profile),
        cells=cell_table(profile, frame),
        differences=differences,
        pictures=pictures,
        overview="../index.html" if has_overview else "",
        root="",
        stamp=stamp_of(profile.title.encode()),
        policy=SELF_CONTAINED,
    )
    write_page(folder / "index.html", html)
    return folder / "index.html"


def _figure_files(profile: Profile, folder: Path) -> list[Path]:
    """Figures in the folder: those of models in the order of the profile, then all others."""
    models = list(dict.fromkeys(cell.cell_id.partition("/")[0] for cell in profile.cells))
    found = sorted((folder / "figures").glob("*.png"))
    return sorted(found, key=lambda path: models.index(path.stem) if path.stem in models else len(models))


def _captions(profile: Profile, differences: Differences | None) -> dict[str, str]:
    """What figures are called, by the names of their files."""
    models = {cell.cell_id.partition("/")[0]: model_entry(cell.model).title for cell in profile.cells}
    # the notebook numbers them in the order of the sentences
    compared = enumerate(differences.sentences if differences else ())
    return {**_CAPTIONS, **{f"comparison-{number}": place for number, place in compared}, **models}


def _figure(path: Path, captions: Mapping[str, str]) -> dict[str, Any]:
    """A figure and its size in pixels, by which its place is known before it is loaded."""
    # the first chunk of every PNG, at a fixed place
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    svg = path.with_suffix(".svg")
    caption = captions.get(path.stem, path.stem.replace("_", " "))
    return dict(name=path.name, caption=caption, width=width, height=height, svg=svg.is_file() and svg.name)


def _sentences(profile: Profile) -> list[str]:
    """What the figures above them show, panel by panel."""
    return [panel.sentence for panel in budget_findings(profile)] if profile.notebook == Profile.notebook else []


def cell_table(profile: Profile, frame: pd.DataFrame) -> Table:
    """A row per cell of the profile; those in the frame link to their pages."""
    done, names = {row.cell_id: row for row in frame.itertuples()}, method_names(profile.cells)
    return Table(_HEADS, [_row(cell, names[cell.cell_id], done.get(cell.cell_id)) for cell in profile.cells])


def _row(config: CellConfig, name: str, done: Any) -> Row:
    place = "" if done is None else f"{quote(config.cell_id)}/"
    budget = Field.number(config.budget, ",") if config.budget is not None else _NO_BUDGET
    names = [
        Field(model_entry(config.model).title),
        Field(config.benchmark),
        Field(name, tag="th", link=place and f"{place}replies.html"),
        budget,
    ]
    if done is None:
        return Row([*names, Field("missing"), *[Field.number(None)] * (len(_HEADS) - 5)], is_missing=True)
    speed = Field.number(done.decode_tps, ",.0f")
    values = [
        Field.number(done.pass_at_1, ".1f"),
        Field(f"{done.pass_at_1_lo:.1f} to {done.pass_at_1_hi:.1f}", is_number=True),
        Field(f"{done.n_problems} x {done.n_samples}", is_number=True),
        Field.number(done.truncated_share, ".1f"),
        Field.number(done.mean_new_tokens, ",.0f"),
        speed,
        speed
        if speed.key is None
        else Field(f"{done.decode_tps_lo:,.0f} to {done.decode_tps_hi:,.0f}", is_number=True),
        Field.number(done.kv_tokens_peak, ","),
        Field.number(done.kv_bytes_peak, ","),
        Field.number(done.evictions, ","),
        Field.number(done.wall_s, ",.0f"),
        Field("HTML", link=f"{place}run.html", more=[Link(".ipynb", f"{place}run.ipynb")]),
    ]
    return Row([*names, *values])
