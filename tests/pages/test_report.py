"""A profile's page begins with what came out, its table says what was measured, and its links lead somewhere."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from urllib.parse import unquote

import pandas as pd
import pytest

from kvrepro.errors import KvreproError
from kvrepro.figures.reply_pictures import PictureSet
from kvrepro.pages.index import _CAPTIONS, write_index
from kvrepro.pages.report import write_report
from kvrepro.paths import project_root, results_root
from kvrepro.runs.config import CellConfig
from kvrepro.runs.profiles import load_profile
from kvrepro.runs.summary import COLUMNS

SMOKE = load_profile("smoke")
LINES = ["3 of 5 cells equal the <committed> numbers.", "Throughput falls."]


@pytest.fixture
def frame():
    """Two finished cells, of which one has a throughput."""
    row = dict.fromkeys(COLUMNS, 1)
    names = ("decode_tps", "decode_tps_lo", "decode_tps_hi")
    values = [(5003.2, 4866.0, 5052.0), (None, None, None)]
    rows = [
        row | {"cell_id": cell.cell_id} | dict(zip(names, value, strict=True))
        for cell, value in zip(SMOKE.cells, values, strict=False)
    ]
    return pd.DataFrame(rows).astype(dict.fromkeys(names, float))


@pytest.fixture
def written(frame, tmp_path):
    """The page of those cells."""
    return lambda profile=SMOKE, **more: write_index(profile, frame, tmp_path, **more).read_text()


class Page(HTMLParser):
    """The tables of a page as rows of texts, its headings in order, and its paragraphs."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.headings, self.paragraphs, self._into = [], [], [], None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        into = {"td": self.rows[-1:], "th": self.rows[-1:], "p": [self.paragraphs]}.get(tag)
        if into or re.fullmatch("h[1-6]", tag):
            self._into = into[0] if into else self.headings
            self._into.append("" if into else f"{tag} ")

    def handle_endtag(self, tag):
        if tag in ("td", "th", "p") or re.fullmatch("h[1-6]", tag):
            self._into = None

    def handle_data(self, data):
        if self._into:
            self._into[-1] += data


def test_the_page_begins_with_the_verdict(written):
    html = written(lines=LINES)
    page = Page(html)
    assert page.headings[0] == f"h1 {SMOKE.title}"
    assert page.paragraphs[:2] == LINES
    assert page.paragraphs[2].startswith("2 of 5 cells. ")
    assert "<committed>" not in html
    # without it a phone lays the page out as wide as a desk
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    assert '<html lang="en">' in html


def test_throughput_stands_with_its_interval_or_as_a_dash(written):
    html = written()
    head, first, second, *missing = Page(html).rows
    speed = head.index("tokens/s")
    assert first[speed : speed + 2] == ["5,003", "4,866 to 5,052"]
    assert second[speed : speed + 2] == ["\N{EN DASH}", "\N{EN DASH}"]
    assert [row[4] for row in missing] == ["missing"] * 3
    assert {len(row) for row in (head, first, second, *missing)} == {len(head)}
    assert "nan" not in re.sub(r"<[^>]+>", " ", html).lower()


def test_rows_are_sorted_by_numbers_and_link_to_the_pages_of_their_cells(written):
    html = written()
    assert 'data-key="5003.2">5,003<' in html
    done, missing = SMOKE.cells[:2], SMOKE.cells[2:]
    for name in ("replies.html", "run.html", "run.ipynb"):
        assert all(f'href="{cell.cell_id}/{name}"' in html for cell in done)
        assert not any(f'href="{cell.cell_id}/{name}"' in html for cell in missing)


def test_budget_curves_are_said_in_words_below_their_figures(written):
    page = written()
    assert page.count("<li>") == 1
    assert "<li>Tiny-R1-Llama, chain-12: none of 1 budgets is finished; throughput not measured.</li>" in page
    assert "<li>" not in written(replace(SMOKE, notebook="main_table"))


def test_a_note_shows_commands_as_code_and_nothing_as_markup(written):
    html = written(pictures=[PictureSet("<m>", note="Not drawn; `kvrepro <x>` <b>")])
    assert '<p class="note">Not drawn; <code>kvrepro &lt;x&gt;</code> &lt;b&gt;</p>' in html
    assert "<h3>&lt;m&gt;</h3>" in html


def test_headings_skip_no_level(written):
    levels = [int(text[1]) for text in Page(written()).headings]
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


def test_a_report_of_nothing_says_what_is_left():
    profile = load_profile("tiny")
    report = write_report(profile)
    assert report.verdict[0].endswith(f"; {len(profile.cells)} not finished.")
    assert Page(report.index.read_text()).paragraphs[0] == report.verdict[0]
    assert report.frame.empty
    summary = json.loads((report.index.parent / "page.json").read_text())
    cells = len(profile.cells)
    assert summary == dict(profile="tiny", title=profile.title, verdict=report.verdict, done=0, of=cells, ended=None)
    assert f'href="tiny/index.html">{profile.title}<' in (results_root() / "index.html").read_text()


def test_figures_of_a_model_in_a_folder_lie_with_the_others(tmp_path, monkeypatch):
    root, weights = tmp_path / "project", tmp_path / "weights" / "mine"
    for folder in (root / "nbs_params", weights):
        folder.mkdir(parents=True)
    (root / "notebooks").symlink_to(project_root() / "notebooks")
    (weights / "config.json").write_text("{}")
    panel = {"model": str(weights), "benchmark": "chain-12", "methods": ["window"], "budgets": [160]}
    (root / "nbs_params" / "own.yaml").write_text(json.dumps({"panels": [panel]}))
    monkeypatch.setenv("KVREPRO_ROOT", str(root))
    write_report(load_profile("own"))
    drawn = sorted(path.name for path in (results_root() / "own" / "figures").iterdir())
    assert drawn == ["mine.png", "mine.svg"]
    assert [path.name for path in weights.parent.rglob("*") if path.is_file()] == ["config.json"]


def test_nothing_else_is_overwritten(tmp_path):
    smoke, other = replace(SMOKE, cells=()), results_root() / "tiny"
    for folder, named in ((other, "lies among the results"), (tmp_path / "mine", "holds something else")):
        folder.mkdir(parents=True)
        (folder / "index.html").write_text("mine")
        with pytest.raises(KvreproError, match=f"--out={folder} {named}"):
            write_report(smoke, out=folder)
        assert (folder / "index.html").read_text() == "mine"
    out = tmp_path / "out"
    for _ in range(2):
        assert write_report(SMOKE, out=out).index == out / "index.html"
    with pytest.raises(KvreproError, match="than the page of tiny: give an empty folder"):
        write_report(load_profile("tiny"), out=out)


def test_figures_are_named_in_words_and_lead_to_their_files(written, tmp_path):
    (tmp_path / "figures").mkdir()
    model = SMOKE.cells[0].cell_id.partition("/")[0]
    for name in (model, "average", "own_figure#1"):
        (tmp_path / "figures" / f"{name}.png").write_bytes(bytes(16) + struct.pack(">II", 30, 20))
    html = written()
    captions = ["Tiny-R1-Llama", "Average over models and benchmarks", "own figure#1"]
    assert re.findall(r"<figcaption>([^<]+)</figcaption>", html) == captions
    names = [f"figures/{name}.png" for name in (model, "average", "own_figure%231")]
    assert re.findall(r'<a href="([^"]+)"><img src="([^"]+)"', html) == [(name, name) for name in names]


@pytest.mark.parametrize("name", _CAPTIONS)
def test_captions_are_the_headings_of_their_notebooks(name):
    texts = [path.read_text() for path in (project_root() / "notebooks").glob("*.ipynb")]
    [text] = [text for text in texts if re.search(rf'figure_folder / f?\\"{name}\.', text)]
    cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"]]
    at = next(number for number, source in enumerate(cells) if f'"{name}.' in source)
    headings = [source.split("\n")[0] for source in cells[:at] if source.startswith("## ")]
    assert headings[-1] == f"## {_CAPTIONS[name]}"


def test_names_of_models_are_escaped_in_links(monkeypatch, written, frame):
    strange = "llama:8b #2?100%"
    monkeypatch.setattr(CellConfig, "cell_id", property(lambda cell: f"{strange}/{cell.label}-{cell.budget}"))
    frame["cell_id"] = [cell.cell_id for cell in SMOKE.cells[: len(frame)]]
    links = re.findall(r'href="([^"]+)/replies.html"', written())
    assert [unquote(link) for link in links] == list(frame.cell_id)
    assert not any(set(link) & set(":#? ") for link in links)
