"""What all pages share: assets, tables, notebooks as pages, the page over all profiles."""

from __future__ import annotations

import json
import re
import warnings

import nbformat
import pytest
from nbformat import v4

from kvrepro.pages.notebooks import write_notebook
from kvrepro.pages.overview import write_overview, write_page_summary
from kvrepro.pages.site import asset_files, write_assets, write_page
from kvrepro.pages.tables import Field, method_names
from kvrepro.paths import results_root
from kvrepro.runs.profiles import Profile

from .. import panels
from ..cells import WINDOW, build


def test_assets_are_small_short_of_addresses_and_written_once(tmp_path):
    write_assets(tmp_path)
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "assets").iterdir()}
    assert {"page.css", "table.js", "replies.js", "notebook.css", "token_picture.js"} <= set(written)
    for path in asset_files():
        text = path.read_text()
        assert text.count("\n") <= 300, path
        assert not re.search(r"https?://|@import|\bimport\s|\bfetch\(", text), path
    (tmp_path / "assets" / "table.js").write_text("old")
    write_assets(tmp_path)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "assets").iterdir()}
    assert [name for name in written if after[name] != written[name]] == ["table.js"]
    assert (tmp_path / "assets" / "table.js").read_text() != "old"


@pytest.fixture
def notebook(tmp_path):
    """An executed notebook with code, a table, a bar that was drawn twice and an output with a script."""
    html = "<table><tr><th></th><th>a</th></tr></table><script>alert(1)</script>"
    outputs = [
        v4.new_output("stream", name="stderr", text="50 %\r"),
        v4.new_output("stream", name="stderr", text="100 %"),
        v4.new_output("execute_result", {"text/html": html, "text/plain": "plain"}, execution_count=3),
        v4.new_output("display_data", {"image/png": "aGk="}),
        v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}),
    ]
    cells = [
        v4.new_markdown_cell("# A title"),
        v4.new_code_cell("x = 1 < 2", execution_count=3, outputs=outputs),
    ]
    path = tmp_path / "run.ipynb"
    nbformat.write(v4.new_notebook(cells=cells), path)
    return path


def test_a_notebook_is_a_page_with_folded_code_and_nothing_from_elsewhere(notebook):
    page = notebook.with_suffix(".html")
    assert write_notebook(notebook, page, "cell <x>", "../", "Back & home")
    html = page.read_text()
    assert "<title>cell &lt;x&gt;</title>" in html and '<a href="../index.html">Back &amp; home</a>' in html
    assert re.search(r'<details class="code"><summary>Code \[3\]</summary>\s*<div class="[ \w]*highlight', html)
    assert "A title" in html and "<td></td><th>a</th>" in html and "plain" not in html
    assert "50 %" not in html and "100 %" in html
    assert 'src="data:image/png;base64,aGk="' in html and "open the .ipynb in JupyterLab" in html
    assert not re.search(r"https?://|require|MathJax", html)
    assert re.findall(r'<script src="([^"]+)"', html) == ["../assets/notebook.js"]
    assert len(html) < 10_000
    assert not write_notebook(notebook, page, "cell <x>", "../", "Back & home")
    assert write_notebook(notebook, page, "cell <x>", "../../", "Back & home")


def test_a_damaged_notebook_is_named_on_its_page(notebook):
    notebook.write_text("{}")
    with pytest.warns(RuntimeWarning, match=r"run\.ipynb is no notebook"):
        write_notebook(notebook, notebook.with_suffix(".html"), "cell")
    assert "run.ipynb is no notebook: " in notebook.with_suffix(".html").read_text()


@pytest.mark.parametrize("damage", ["no outputs", "no data", "deep"])
def test_a_notebook_that_cannot_be_exported_is_named_on_its_page(notebook, damage):
    content = json.loads(notebook.read_text())
    if damage == "no outputs":
        del content["cells"][1]["outputs"]
    elif damage == "no data":
        del content["cells"][1]["outputs"][2]["data"]
    text = json.dumps(content) if damage != "deep" else 100_000 * "[" + 100_000 * "]"
    notebook.write_text(text)
    with pytest.warns(RuntimeWarning, match=r"run\.ipynb is no notebook"):
        write_notebook(notebook, notebook.with_suffix(".html"), "cell")
    assert "run.ipynb is no notebook: " in notebook.with_suffix(".html").read_text()


def test_a_page_that_was_broken_off_is_written_again(notebook):
    page = notebook.with_suffix(".html")
    assert write_notebook(notebook, page, "cell")
    whole = page.read_text()
    page.write_text(whole[: len(whole) // 2])
    assert write_notebook(notebook, page, "cell")
    assert page.read_text() == whole
    assert not write_notebook(notebook, page, "cell")


def test_no_page_holds_a_nul(tmp_path):
    write_page(tmp_path / "a.html", "a\0b\ud800")
    assert (tmp_path / "a.html").read_text() == "a\N{REPLACEMENT CHARACTER}b?"


def test_the_page_over_all_profiles_lists_those_that_have_a_page():
    for name, title, verdict in (("a", "First <b>", ["All equal.", "More."]), ("b", "Second", [])):
        (results_root() / name).mkdir(parents=True)
        write_page_summary(
            results_root() / name, Profile(name, title, panels.CELLS), verdict, 2, "2026-11-28T09:21:59+00:00"
        )
    (results_root() / "other").mkdir()
    html = write_overview().read_text()
    assert re.findall(r'<h2><a href="([^"]+)">([^<]+)</a>', html) == [
        ("a/index.html", "First &lt;b&gt;"),
        ("b/index.html", "Second"),
    ]
    assert "<p>All equal.</p>" in html and "More." not in html and "<p>Nothing is finished.</p>" in html
    assert html.count("2 of 3 cells, the newest of 2026-11-28<") == 2
    assert list((results_root() / "other").iterdir()) == []


def test_a_damaged_summary_is_left_out_and_named():
    known = '{"title": "T", "verdict": %s, "done": %s, "of": 1, "ended": null}'
    damaged = {
        "bad": "{",
        "deep": 100_000 * "[" + 100_000 * "]",
        "huge": known % ("[]", "1e999"),
        "letters": known % ('"One"', "1"),
        "short": "[]",
    }
    for name, text in {**damaged, "good": None}.items():
        (results_root() / name).mkdir(parents=True)
        if text is None:
            write_page_summary(results_root() / name, Profile(name, "Good", panels.CELLS[:1]), ["Fine."], 1, None)
        else:
            (results_root() / name / "page.json").write_text(text)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        html = write_overview().read_text()
    said = [str(warning.message) for warning in found]
    assert [text.split("results/")[1].split(":")[0] for text in said] == [f"{name}/page.json" for name in damaged]
    assert html.count("<li>") == 1 and ">Good</a>" in html
    assert json.loads((results_root() / "good" / "page.json").read_text())["ended"] is None


def test_a_number_is_sorted_by_its_value_and_nothing_by_none():
    assert Field.number(12345.6, ",.0f") == Field("12,346", key=12345.6, is_number=True)
    assert Field.number(float("nan")) == Field("\N{EN DASH}", is_number=True) == Field.number(None)


def test_sizes_are_named_where_labels_are_alike():
    cells = [build(WINDOW), build(WINDOW, window=16), build(WINDOW, budget=100)]
    assert list(method_names(cells).values()) == ["window (window 32)", "window (window 16)", "window"]
