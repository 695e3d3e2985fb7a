"""What axe finds, whether a page is wider than its window, and screenshots to be looked at."""

from __future__ import annotations

import pytest

from .conftest import COMPARISON, SMOKE, WIDTHS


@pytest.fixture(scope="session")
def pages(results):
    """What is looked at: name -> path below the results."""
    [cell] = (results / COMPARISON).glob("*/*/random-*/*/records.jsonl")
    picture = sorted((cell.parent / "pictures").glob("*.js"))[0]
    place = cell.parent.relative_to(results)
    return {
        "overview": "index.html",
        "index": f"{SMOKE}/index.html",
        "comparison": f"{COMPARISON}/index.html",
        "replies": f"{place}/replies.html#{picture.stem}",
        "notebook": f"{COMPARISON}/comparison.html",
        "run": f"{place}/run.html",
    }


NAMES = ("overview", "index", "comparison", "replies", "notebook", "run")


@pytest.fixture
def open_named(open_at, pages):
    """A page as it is read: a reply's picture is open, a notebook's code is unfolded."""

    def open_page(name, width, scheme):
        page = open_at("disk", pages[name], width, scheme).page
        # what is out of sight is drawn too
        page.add_style_tag(content=".reply, .kvr-part { content-visibility: visible !important; }")
        if name == "replies":
            page.locator("details[open]").get_by_role("button", name="Show evictions").click()
            page.locator(".kvr-tokens").first.wait_for()
        if name in ("notebook", "run"):
            page.get_by_role("button", name="Show all code").click()
        for image in page.locator("img").all():
            image.scroll_into_view_if_needed()
        page.evaluate("window.scrollTo(0, 0)")
        return page

    return open_page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_axe_finds_nothing(open_named, name, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_named(name, 1200, scheme)
    # styles need not be fetched a second time, which the page does not allow
    found = axe.run(page, options={"resultTypes": ["violations"], "preload": False})
    assert found.violations_count == 0, found.generate_report()
    # what axe itself could not tell is no answer
    assert {rule["id"] for rule in found.response["passes"]} >= {"color-contrast", "document-title", "link-name"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_as_wide_as_its_window(open_named, shots, name, width, scheme):
    page = open_named(name, width, scheme)
    page.screenshot(path=shots / f"{name}-{width}-{scheme}.png", full_page=True)
    wide = page.evaluate(
        """() => [...document.body.querySelectorAll("*")].filter((part) => {
          const box = part.getBoundingClientRect();
          const isWide = box.right > document.documentElement.clientWidth + 1;
          return isWide && !part.closest(".scroll, .html, .output, pre, .unseen");
        }).map((part) => part.outerHTML.slice(0, 90))"""
    )
    sizes = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert sizes[0] <= sizes[1], wide
