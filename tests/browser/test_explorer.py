"""The explorer in JupyterLab, and as it is without a kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from kvrepro.files import write_json
from kvrepro.paths import project_root

from .conftest import WIDTHS
from .places import Watch, process, said

TOKEN = "of-this-test"
# no question whether news may be fetched; and cells out of sight stay in the page
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "defer"},
}
NOTEBOOK = "explorer.ipynb"


@pytest.fixture(scope="session")
def lab(tmp_path_factory, chromium):
    """Address of a JupyterLab with the explorer in its folder, and that folder; nothing of the user's is read."""
    pytest.importorskip("jupyterlab")
    root = tmp_path_factory.mktemp("lab")
    books = root / "notebooks"
    books.mkdir()
    shutil.copy(project_root() / "notebooks" / NOTEBOOK, books)
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
        "KVREPRO_RESULTS": "results",
    }
    for name, values in SETTINGS.items():
        path = root / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        write_json(path, values)
    environment = {**os.environ, **{name: str(root / folder) for name, folder in folders.items()}}
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--port=0",
        "--allow-root",
        f"--notebook-dir={books}",
    ]
    command += [f"--IdentityProvider.token={TOKEN}"]
    with process(command, root / "log", environment) as started:
        yield said(root / "log", r"(http://127\.0\.0\.1:[1-9]\d*/)lab", started), books


@pytest.fixture
def opened(chromium, lab, shots):
    address, _ = lab
    context = chromium.new_context(viewport={"width": 1600, "height": 1000})
    context.set_default_timeout(60_000)
    page, watch = context.new_page(), Watch(context, address)
    watch.found.clear()
    page.goto(f"{address}lab/tree/{NOTEBOOK}?token={TOKEN}")
    yield page
    page.screenshot(path=shots / "explorer-end.png")
    context.close()
    watch.check()


def run_all(page):
    """Run every cell and wait until the last one is done."""
    page.locator(".jp-Notebook").wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    # cells out of sight are there and not drawn
    page.get_by_text("One reply says nothing about a method").wait_for(state="attached", timeout=120_000)


def struck(scope):
    """How many tokens are struck in each reply."""
    return [box.locator(".kvr-lost").count() for box in scope.locator(".kvr-tokens").all()]


def move_the_slider(scope):
    """The slider from its end to its beginning and to the first eviction."""
    slider = scope.get_by_label("step of decoding").first
    slider.scroll_into_view_if_needed()
    slider.focus()
    end = struck(scope)
    assert len(end) == 2 and max(end) > 0
    slider.press("Home")
    assert struck(scope) == [0, 0]
    scope.get_by_role("button", name="next eviction").first.click()
    first = struck(scope)
    assert max(first) > 0 and all(now <= then for now, then in zip(first, end, strict=True))
    slider.press("End")
    assert struck(scope) == end


def test_it_works_in_jupyterlab_and_frozen(opened, lab, chromium, shots):
    page, (_, books) = opened, lab
    run_all(page)
    book = page.locator(".jp-Notebook")
    menus = {name: page.get_by_label(name, exact=True) for name in ("left", "right", "budget")}
    assert {name: menu.evaluate("(menu) => menu.selectedOptions[0].text") for name, menu in menus.items()} == {
        "left": "dynts",
        "right": "random",
        "budget": "232",
    }
    menus["budget"].scroll_into_view_if_needed()
    page.screenshot(path=shots / "explorer-menus.png")
    move_the_slider(book)
    page.screenshot(path=shots / "explorer-replies.png")

    before = [box.inner_text() for box in book.locator(".kvr-title").all()]
    menus["right"].select_option("h2o")
    page.get_by_label("problem", exact=True).select_option("chain-12-002")
    page.wait_for_function(
        """() => [...document.querySelectorAll(".kvr-title")].map((title) => title.textContent).join().match(
          /dynts.*chain-12-002.*h2o.*chain-12-002/)""",
        timeout=120_000,
    )
    page.get_by_text("chain-12-002 on Tiny-R1-Llama").wait_for(state="attached")
    after = [box.inner_text() for box in book.locator(".kvr-title").all()]
    assert len(after) == 2 and after[0] != before[0] and after[1] != before[1]
    assert "h2o" in after[1] and "h2o" not in before[1]
    move_the_slider(book)
    assert page.locator('[data-mime-type="application/vnd.jupyter.error"], .jp-mod-error').count() == 0
    page.keyboard.press("Control+s")
    page.locator(".jp-Notebook").wait_for()

    page.wait_for_timeout(2000)
    frozen_is_alive(chromium, books, shots)


def frozen_is_alive(chromium, books, shots):
    """The saved notebook as HTML, without a kernel and without a network."""
    command = [sys.executable, "-m", "nbconvert", "--to", "html", NOTEBOOK]
    subprocess.run(command, cwd=books, check=True, capture_output=True)
    for width in WIDTHS:
        context = chromium.new_context(viewport={"width": width, "height": 1000})
        page = context.new_page()
        page.route("http*://**", lambda route: route.abort())
        errors = []
        page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
        page.goto((books / NOTEBOOK).with_suffix(".html").as_uri())
        move_the_slider(page)
        assert "h2o" in page.locator(".kvr-title").last.inner_text()
        page.screenshot(path=shots / f"explorer-frozen-{width}.png", full_page=True)
        context.close()
        # nbconvert's own template wants scripts of the network for formulas
        assert [error for error in errors if "require" not in error] == []
