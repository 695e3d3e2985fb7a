"""A cell's page: wrong replies first, found and stepped through, their pictures drawn on request."""

from __future__ import annotations

import json

import pytest

from .conftest import COMPARISON, PLACES


@pytest.fixture(scope="session")
def cell(results):
    """Folder of the cell of `random`, which has replies of both kinds, below the results."""
    [found] = (results / COMPARISON).glob("*/*/random-*/*/records.jsonl")
    return found.parent


@pytest.fixture(scope="session")
def records(cell):
    return [json.loads(line) for line in (cell / "records.jsonl").read_text().splitlines()]


@pytest.fixture
def open_cell(open_at, cell, results):
    def open_page(place, **settings):
        return open_at(place, f"{cell.relative_to(results)}/replies.html", **settings)

    return open_page


def shown(page):
    return page.evaluate("[...document.querySelectorAll('.reply')].filter((r) => !r.hidden).map((r) => r.id)")


def anchors(records, is_right):
    return [f"{record['problem_id']}-{record['sample_id']}" for record in records if record["correct"] is is_right]


@pytest.mark.parametrize("place", PLACES)
def test_wrong_ones_come_first_and_are_stepped_through(open_cell, place, records):
    page = open_cell(place).page
    wrong, right = anchors(records, False), anchors(records, True)
    assert len(wrong) > 1 and right
    assert shown(page) == [*wrong, *right]
    following = page.get_by_role("button", name="Next wrong")
    for name in [*wrong, wrong[0]]:
        following.click()
        assert page.evaluate("[...document.querySelectorAll('.reply[open]')].map((reply) => reply.id)") == [name]
        assert page.locator(f"#{name} > summary").evaluate("(summary) => summary === document.activeElement")
        assert page.locator(f"#{name} > summary").bounding_box()["y"] < 900
    page.get_by_role("button", name="Previous wrong").click()
    assert page.evaluate("document.querySelector('.reply[open]').id") == wrong[-1]


def test_search_and_menu_leave_what_they_name(open_cell, records):
    page = open_cell("disk").page
    first = anchors(records, True)[0]
    page.get_by_label("Search").fill(first.removesuffix("-0").upper())
    page.get_by_text(f"1 of {len(records)} shown").wait_for()
    assert shown(page) == [first]
    page.get_by_label("Search").fill("no reply has this")
    page.get_by_text(f"0 of {len(records)} shown").wait_for()
    assert shown(page) == []
    page.get_by_label("Search").fill("")
    page.get_by_label("Show").select_option("wrong")
    page.get_by_text(f"{len(anchors(records, False))} of {len(records)} shown").wait_for()
    assert shown(page) == anchors(records, False)


@pytest.mark.parametrize("place", PLACES)
def test_an_open_reply_says_how_it_was_graded(open_cell, place, records):
    page = open_cell(place).page
    record = next(record for record in records if not record["correct"])
    name = anchors(records, False)[0]
    reply = page.locator(f"#{name}")
    reply.locator("summary").click()
    facts = reply.locator("dl.facts").inner_text().replace("\n", " ")
    for value in (record["gold"], record["answer"] or "none", record["status"], record["rule"] or "none"):
        assert str(value) in facts
    assert reply.locator("pre").first.inner_text().strip() == record["question"].strip()
    assert record["text"][: record["answer_start"]].strip() == reply.locator("pre.thought").inner_text().strip()


def test_a_link_to_a_reply_opens_it(open_at, cell, results, records):
    name = anchors(records, True)[-1]
    page = open_at("disk", f"{cell.relative_to(results)}/replies.html#{name}").page
    assert page.locator(f"#{name}").get_attribute("open") is not None
    assert page.locator(f"#{name} > summary").bounding_box()["y"] < 900


def test_a_link_to_nothing_breaks_nothing(open_at, cell, results):
    page = open_at("disk", f"{cell.relative_to(results)}/replies.html#%").page
    assert page.locator(".reply[open]").count() == 0
    name = sorted(path.stem for path in (cell / "pictures").glob("*.js"))[0]
    ask_for_picture(page, name).locator(".kvr-tokens").wait_for()


def ask_for_picture(page, name):
    reply = page.locator(f"#{name}")
    if reply.get_attribute("open") is None:
        reply.locator("summary").click()
    reply.get_by_role("button", name="Show evictions").click()
    return reply.locator(".picture")


def test_view_draws_a_picture_on_request(open_cell, cell, results, records):
    opened = open_cell("view")
    name = anchors(records, True)[-1]
    assert not list((cell / "pictures").glob(f"{name}.js"))
    picture = ask_for_picture(opened.page, name)
    picture.locator(".kvr-tokens").wait_for(timeout=120_000)
    record = next(record for record in records if f"{record['problem_id']}-{record['sample_id']}" == name)
    assert f"eviction {record['evictions']} of {record['evictions']}" in picture.locator(".kvr-status").inner_text()
    drawn = picture.locator(".kvr-tokens").text_content()
    assert "".join(record["text"].split())[-20:] in "".join(drawn.replace("\u21b5", "").split())


@pytest.mark.parametrize("place", ["disk", "plain"])
def test_elsewhere_the_page_says_which_command_draws(open_cell, place, records):
    opened = open_cell(place)
    name = anchors(records, True)[-1]
    opened.watch.expected += [rf"failed: .*/pictures/{name}\.js", "console: Failed to load resource"]
    picture = ask_for_picture(opened.page, name)
    picture.get_by_text(f"kvrepro view {COMPARISON}").wait_for()
    assert picture.locator(".kvr-tokens").count() == 0


@pytest.mark.parametrize("place", PLACES)
def test_the_slider_moves_the_tokens(open_cell, cell, place, records):
    name = sorted(path.stem for path in (cell / "pictures").glob("*.js"))[0]
    picture = ask_for_picture(open_cell(place).page, name)
    slider = picture.get_by_label("step of decoding")
    slider.wait_for()

    def state():
        return {kind: picture.locator(f".kvr-tokens .kvr-{kind}").count() for kind in ("lost", "later")}

    end = state()
    assert end["lost"] > 0 and end["later"] == 0
    slider.focus()
    slider.press("Home")
    begin = state()
    assert begin["lost"] == 0 and begin["later"] > 0
    picture.get_by_role("button", name="next eviction").click()
    first = state()
    assert 0 < first["lost"] <= end["lost"] and first["later"] < begin["later"]
    picture.get_by_role("button", name="one step back").click()
    assert state()["lost"] == 0
    slider.press("ArrowRight")
    assert state() == first
    slider.press("End")
    assert state() == end
    # the box follows to the token that was last decoded
    box, last = picture.locator(".kvr-tokens"), picture.locator(".kvr-tokens span[class]").last
    inner, token = box.bounding_box(), last.bounding_box()
    assert inner["y"] <= token["y"] <= inner["y"] + inner["height"]


@pytest.mark.parametrize("place", PLACES)
def test_pictures_on_the_profiles_page_are_drawn(open_at, place):
    page = open_at(place, f"{COMPARISON}/index.html").page
    rows = page.locator("[data-pictures]")
    assert rows.count() >= 1
    for row in rows.all():
        row.locator(".kvr-tokens").first.wait_for()
        assert row.locator(".kvr-missing").count() == 0


def test_text_of_a_model_is_never_markup(open_at, cell, results):
    """A reply with markup in it is shown as it is."""
    page = open_at("disk", f"{cell.relative_to(results)}/replies.html").page
    evil = '<img src=x onerror="document.title=1"></script><b>'
    title = page.title()
    page.evaluate(
        """evil => {
          const place = document.querySelector(".picture");
          place.closest("details").open = true;
          kvrepro.draw(place, {title: evil, caption: evil, tokens: ["a", evil], roles: ["q", "t"], shades: [null, 0],
            importance: [null, 1], lost_at: [null, null], sizes: [], budget: null});
        }""",
        evil,
    )
    assert evil in page.locator(".kvr-tokens").text_content()
    assert page.locator(".picture img, .picture b").count() == 0
    assert page.title() == title
