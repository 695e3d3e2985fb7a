"""The page of a profile and the page over all of them, driven as a reader does."""

from __future__ import annotations

import pytest

from .conftest import COMPARISON, PLACES, SMOKE

N_CELLS = 5  # of the smoke profile


def column(page, head):
    """Texts of a column of the first table, rows that are shown, top to bottom."""
    return page.evaluate(
        """head => {
          const table = document.querySelector("table[data-sortable]");
          const at = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent.trim() === head);
          const rows = [...table.tBodies[0].rows].filter((row) => row.offsetParent !== null);
          return rows.map((row) => row.cells[at].textContent.trim());
        }""",
        head,
    )


def numbers(texts):
    return [float(text.replace(",", "")) for text in texts]


def sort_by(page, head):
    """Click a head; gives what it then says of itself."""
    cell = page.locator("table[data-sortable]").first.locator("thead th", has_text=head).first
    cell.get_by_role("button").click()
    return cell.get_attribute("aria-sort")


@pytest.mark.parametrize("place", PLACES)
def test_heads_sort(open_at, place):
    page = open_at(place, f"{SMOKE}/index.html").page
    assert sort_by(page, "mean tokens") == "ascending"
    rising = numbers(column(page, "mean tokens"))
    assert len(set(rising)) > 1 and rising == sorted(rising)
    assert sort_by(page, "mean tokens") == "descending"
    assert numbers(column(page, "mean tokens")) == rising[::-1]
    assert sort_by(page, "method") == "ascending"
    names = column(page, "method")
    assert len(names) == N_CELLS and names == sorted(names)
    sorted_heads = page.locator('table[data-sortable] th[aria-sort]:not([aria-sort="none"])')
    assert sorted_heads.count() == 1 and "method" in sorted_heads.inner_text()


def test_the_full_cache_has_the_largest_budget(open_at):
    page = open_at("disk", f"{COMPARISON}/index.html").page
    sort_by(page, "budget")
    assert column(page, "budget") == ["248", "248", "none"]
    sort_by(page, "budget")
    assert column(page, "budget") == ["none", "248", "248"]


@pytest.mark.parametrize("place", PLACES)
def test_filters_leave_what_they_name(open_at, place):
    page = open_at(place, f"{SMOKE}/index.html").page
    assert len(column(page, "method")) == N_CELLS
    page.get_by_label("Filter method").first.fill("window")
    assert sorted(column(page, "method")) == ["question_window", "window"]
    assert page.get_by_text(f"2 of {N_CELLS} rows").is_visible()
    page.get_by_label("Filter Pass@1 (%)").first.fill("> 50")
    assert column(page, "method") == []
    page.get_by_role("button", name="Clear filters").first.click()
    assert len(column(page, "method")) == N_CELLS
    page.get_by_label("Filter Pass@1 (%)").first.fill("> 50")
    assert column(page, "method") == ["full"]
    page.get_by_label("Filter Pass@1 (%)").first.fill("")
    page.get_by_label("Filter budget").first.select_option("none")
    assert column(page, "method") == ["full"]


def test_head_and_name_stay_in_sight(open_at):
    page = open_at("disk", f"{SMOKE}/index.html", width=600).page
    box = page.locator(".scroll.table").first
    # as if it had many rows and columns
    box.evaluate("box => { box.style.maxHeight = '140px'; box.scrollTo(300, 80); }")
    inner = box.bounding_box()
    head = box.locator("thead th").first.bounding_box()
    assert head["y"] - inner["y"] == pytest.approx(0, abs=3)
    name = box.locator("tbody th").last.bounding_box()
    assert name["x"] - inner["x"] == pytest.approx(0, abs=3)
    assert box.evaluate("box => [box.scrollLeft > 200, box.scrollTop > 40]") == [True, True]


@pytest.mark.parametrize("place", PLACES)
def test_a_wrong_reply_is_opened_with_the_keyboard_alone(open_at, place):
    page = open_at(place, f"{COMPARISON}/index.html").page
    for _ in range(200):
        page.keyboard.press("Tab")
        text = page.evaluate("document.activeElement.textContent")
        if page.evaluate("document.activeElement.closest('tbody') !== null") and text == "random":
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/replies.html")
    page.keyboard.press("j")
    focused = page.evaluate("document.activeElement.closest('details').className")
    assert "wrong" in focused.split()
    opened = page.locator("details.reply[open]")
    assert opened.count() == 1
    for name in ("Question", "Answer"):
        assert opened.get_by_role("heading", name=name).is_visible()
    page.keyboard.press("Enter")
    assert page.locator("details.reply[open]").count() == 0


@pytest.mark.parametrize("place", PLACES)
def test_every_link_of_the_site_leads_somewhere(open_at, place):
    opened = open_at(place, "index.html")
    page, todo, done = opened.page, ["index.html"], set()
    base = page.url.removesuffix("index.html")
    while todo:
        path = todo.pop()
        page.goto(base + path)
        assert page.locator("h1").count() >= 1, path
        done.add(path)
        links = page.evaluate("[...document.links].map((a) => a.href.split('#')[0])")
        assert [link for link in links if not link.startswith(base)] == [], path
        # a browser shows pages; other files are only asked for
        found = {link.removeprefix(base) for link in links} - done - set(todo)
        todo += sorted(name for name in found if name.endswith(".html"))
        for name in sorted(found):
            if not name.endswith(".html") and place != "disk":
                assert page.request.get(base + name).ok, name
                done.add(name)
    assert {f"{SMOKE}/index.html", f"{SMOKE}/budget_curves.html", f"{COMPARISON}/comparison.html"} <= done
    assert sum(path.endswith("/replies.html") for path in done) == N_CELLS + 3


def test_the_overview_lists_profiles_and_what_they_came_to(open_at):
    page = open_at("view", "").page
    profiles = page.locator(".profiles li")
    assert profiles.count() == 2
    page.get_by_role("link", name="Smoke test").click()
    page.wait_for_url(f"**/{SMOKE}/index.html")
    assert page.locator("h1").inner_text() == "Smoke test"
    assert page.locator(".verdict p").count() >= 1


def test_without_scripts_everything_can_be_read(chromium, sites):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{sites['disk']}{SMOKE}/index.html")
    assert page.locator("table").first.locator("tbody th a").count() == N_CELLS
    page.locator("tbody th a").first.click()
    page.locator("details.reply > summary").first.click()
    assert page.get_by_role("heading", name="Question").first.is_visible()
    assert not page.locator("form.controls").is_visible()
    context.close()


@pytest.mark.parametrize("page_of", [f"{SMOKE}/budget_curves.html", f"{COMPARISON}/comparison.html"])
@pytest.mark.parametrize("place", PLACES)
def test_notebook_pages_fold_their_code(open_at, place, page_of):
    page = open_at(place, page_of).page
    images = page.evaluate("[...document.images].map((image) => image.complete && image.naturalWidth > 0)")
    assert images and all(images)
    code = page.locator("details.code pre").first
    assert not code.is_visible()
    page.get_by_role("button", name="Show all code").click()
    assert code.is_visible()
    page.get_by_role("button", name="Hide all code").click()
    assert not code.is_visible()
