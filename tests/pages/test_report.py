"""A profile's page begins with what came out, and its table says what was measured."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pandas as pd
import pytest

from kvrepro.pages.index import write_index
from kvrepro.pages.report import write_report
from kvrepro.paths import project_root, results_root
from kvrepro.runs.profiles import load_profile
from kvrepro.runs.summary import COLUMNS

SMOKE = load_profile("smoke")
LINES = ["3 of 5 cells equal the <committed> numbers.", "Throughput falls."]


@pytest.fixture
def frame():
    """Two finished cells, of which one has a throughput."""
    (results_root() / SMOKE.name).mkdir(parents=True)
    row = dict.fromkeys(COLUMNS, 1)
    names = ("decode_tps", "decode_tps_lo", "decode_tps_hi")
    values = [(5003.2, 4866.0, 5052.0), (None, None, None)]
    rows = [
        row | {"cell_id": cell.cell_id} | dict(zip(names, value, strict=True))
        for cell, value in zip(SMOKE.cells, values, strict=False)
    ]
    return pd.DataFrame(rows).astype(dict.fromkeys(names, float))


def text_of(html):
    return re.sub(r"<[^>]+>", " ", html)


def test_the_page_begins_with_the_verdict(frame):
    page = write_index(SMOKE, frame, lines=LINES).read_text()
    body = page.split("<body>")[1]
    head = f"<h1>{SMOKE.title}</h1>" + '<p class="verdict">3 of 5 cells equal the &lt;committed&gt; numbers.</p>'
    assert body.startswith(head + '<p class="verdict">Throughput falls.</p><p>2 of 5 cells. ')
    # without it a phone lays the page out as wide as a desk
    assert '<meta name="viewport" content="width=device-width">' in page


def test_throughput_stands_with_its_interval_or_as_a_dash(frame):
    page = write_index(SMOKE, frame).read_text()
    first, second = re.findall(r"<tr><td>.*?</tr>", page)
    assert "<td>5,003</td><td>4,866 to 5,052</td>" in first
    assert second.count("<td>\N{EN DASH}</td>") == 2
    assert "nan" not in text_of(page).lower()


def test_budget_curves_are_said_in_words_below_their_figures(frame):
    page = write_index(SMOKE, frame).read_text()
    assert page.count("<li>") == 1
    assert "<li>Tiny-R1-Llama, chain-12: none of 1 budgets is finished; throughput not measured.</li>" in page
    assert "<li>" not in write_index(replace(SMOKE, notebook="main_table"), frame).read_text()


def test_a_report_of_nothing_says_what_is_left():
    profile = load_profile("tiny")
    report = write_report(profile)
    assert report.verdict[0].endswith(f"; {len(profile.cells)} not finished.")
    assert f'</h1><p class="verdict">{report.verdict[0]}</p>' in report.index.read_text()
    assert report.frame.empty


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
