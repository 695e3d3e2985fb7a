"""Chromium, and pages of real results opened from a disk, by a plain server and by `kvrepro view`."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from kvrepro.paths import results_root

from .places import Watch, find_chromium, kvrepro, plain_server, view_server

SMOKE = "smoke"
# a reply or two of twelve is wrong, so that cells have both kinds
COMPARED = ("dynts", "random", "--benchmark", "sum-16", "--budget", "248", "--n-problems", "12")
# as `kvrepro compare` names it; the end is a hash of what differs from its defaults, here the number of problems
COMPARISON = "compare-dynts-random-tiny-r1-llama-sum-16-248-fb1091"
PLACES = ("disk", "plain", "view")
WIDTHS = (390, 1200, 2000)  # pixels: a phone, a laptop, a large screen


def pytest_addoption(parser):
    parser.addoption(
        "--finished", type=Path, help="folder with finished `smoke` and comparison, to save the minute that they take"
    )


@pytest.fixture(scope="session")
def shots():
    """Where screenshots go; the folder is printed at the end of the run."""
    folder = results_root() / "browser"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def pytest_terminal_summary(terminalreporter, config):
    paths = sorted((results_root() / "browser").glob("*.png"))
    if paths and terminalreporter.stats.get("passed"):
        terminalreporter.section("screenshots")
        for path in paths:
            terminalreporter.line(str(path))


@pytest.fixture(scope="session")
def chromium():
    """A browser; contexts are made of it."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs `pip install kvrepro[browser]`")
    path = find_chromium()
    if path is None:
        pytest.skip("needs Chromium or Chrome, such as `apt-get install chromium`")
    with sync_api.sync_playwright() as playwright:
        # Chromium's own sandbox refuses root, the only user of most containers
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def results(tmp_path_factory, request, chromium):
    """Results of two profiles that were run for real, with their pages."""
    root = tmp_path_factory.mktemp("site") / "results"
    if (finished := request.config.getoption("--finished")) is not None:
        shutil.copytree(finished, root)
        kvrepro(root, "summary", SMOKE)
        kvrepro(root, "summary", COMPARISON)
    else:
        kvrepro(root, "grid", SMOKE)
        kvrepro(root, "compare", *COMPARED)
    return root


@pytest.fixture(scope="session")
def sites(results, tmp_path_factory):
    """Addresses of the page over all profiles, by place; each place has a copy of its own."""
    folder = tmp_path_factory.mktemp("copies")
    disk, plain, viewed = folder / "on a disk", folder / "www" / "some" / "where", folder / "viewed"
    for copy in (disk, plain, viewed):
        shutil.copytree(results, copy)
    with plain_server(folder / "www") as server, view_server(viewed, folder / "view.log") as view:
        yield {"disk": f"{disk.as_uri()}/", "plain": f"{server}some/where/", "view": view}


@pytest.fixture
def open_at(chromium, sites):
    """`open_at(place, path, width=..., scheme=...)` opens a page; whatever goes wrong there fails the test."""
    opened = []

    def open_page(place, path, width=1200, scheme="light"):
        viewport = {"width": width, "height": 900}
        context = chromium.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
        context.set_default_timeout(30_000)
        page = context.new_page()
        opened.append((context, Watch(context, sites[place])))
        page.goto(sites[place] + path)
        return SimpleNamespace(page=page, watch=opened[-1][1])

    yield open_page
    for context, watch in opened:
        context.close()
        watch.check()
