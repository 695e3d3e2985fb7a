"""The picture of a trace: escaped, shaded by rank, readable, with marks where an eviction took a token."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import pytest

from kvrepro.errors import KvreproError
from kvrepro.figures.token_picture import (
    FADED_TEXT,
    ROLE_COLOURS,
    SCRIPT,
    SHADES,
    STYLE,
    TEXT,
    TokenPicture,
    draw_tokens,
    picture_of,
    pictures_html,
    script_json,
)

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--",
    "\u2028",
    '<script>alert("x")</script>',
    '" onmouseover="x',
    "$\\frac",
    "a\nb",
    "\x00",
    "&amp;",
]


def picture(**changes):
    values = dict(
        tokens=["Q", "a", "b", "c", "d", "</think>", "7"],
        roles=["question", "thought", "thought", "thought", "thought", "answer", "answer"],
        importance=[None, 0.1, 0.4, 0.2, 0.3, None, None],
        kept=[[0, 2, 3], [0, 2, 4, 5]],
    )
    return TokenPicture(**{**values, **changes})


def test_a_token_is_lost_at_the_first_eviction_that_did_not_keep_it():
    assert picture().lost_at == [None, 1, None, 2, None, None, None]
    assert picture(kept=()).lost_at == [None] * 7


def test_shades_follow_the_rank_within_the_thought():
    assert picture().shades == [None, 0, 6, 2, 4, None, None]
    equal = picture(importance=[9, 1, 1, 1, 1, 9, 9]).shades
    assert equal[1:5] == [len(SHADES) - 1] * 4
    assert equal[0] is equal[5] is None
    assert picture(importance=[None] * 7).shades == [None] * 7


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not attrs

    def handle_data(self, data):
        self.text += data


def test_model_text_cannot_become_markup_or_code():
    n = len(HOSTILE)
    html = TokenPicture(HOSTILE, ["thought"] * n, [0.1] * n, [[0, n - 1]], "<b>title", "</script>").html()
    parsed = Tags()
    parsed.feed(html)
    assert parsed.tags == ["div", "style", "div", "script"]
    data = json.loads(re.search(r"previousElementSibling, (.*)\)</script>", html)[1])
    assert data[0]["title"] == "<b>title"
    assert data[0]["tokens"][0] == HOSTILE[0]
    assert html.count("</script") == 1
    assert "\u2028" not in html


def test_a_script_reads_the_same_data():
    hostile = {"text": "".join(HOSTILE)}
    text = script_json(hostile)
    assert text.isascii()
    assert "<" not in text
    assert json.loads(text) == hostile


def test_the_data_says_role_score_loss_and_when():
    data = picture(importance=[None, 0.123456, float("nan"), 0.2, 0.3, None, None], budget=3).data()
    assert data["roles"] == "qttttaa"
    assert data["importance"][:3] == [None, 0.1235, None]
    assert data["lost_at"] == [None, 1, None, 2, None, None, None]
    assert data["sizes"] == [4, 6]
    assert data["budget"] == 3
    assert picture(kept=()).data()["sizes"] == []


def test_a_block_holds_all_it_needs_and_pictures_share_one():
    html = pictures_html([picture(), picture()])
    assert html.count("kvrepro.draw(") == html.count("<script>") == 1
    assert not re.search(r"https?://|src=|@import|url\(", html)


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def mixed(colour, page, share):
    pairs = [(int(colour[i : i + 2], 16), int(page[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


def variables(name):
    """Values of a variable of the style sheet, by the class that sets it: light and dark."""
    found = re.findall(rf"\.(kvr-\w+) \{{ --{name}: light-dark\((#\w+), (#\w+)\)", STYLE.read_text())
    return {cls: (light, dark) for cls, light, dark in found}


def of_all(name):
    return re.search(rf"--{name}: light-dark\((#\w+), (#\w+)\)", STYLE.read_text()).groups()


def test_every_text_of_the_page_has_contrast():
    shades, share = variables("kvr-shade"), int(re.search(r"--kvr-shade\) (\d+)%", STYLE.read_text())[1]) / 100
    assert sorted(shades) == sorted(["kvr-q", "kvr-t", "kvr-a", *(f"kvr-{i}" for i in range(len(SHADES)))])
    page, text, faded = of_all("kvr-page"), of_all("kvr-text"), of_all("kvr-faded")
    for theme in (0, 1):
        for cls, shade in shades.items():
            assert contrast(shade[theme], text[theme]) >= 4.5, cls
            assert contrast(mixed(shade[theme], page[theme], share), faded[theme]) >= 4.5, cls
        assert contrast(page[theme], faded[theme]) >= 4.5
        steps = [luminance(shades[f"kvr-{i}"][theme]) for i in range(len(SHADES))]
        assert steps == sorted(steps, reverse=theme == 0), "each step is stronger than the one before"


def test_figure_and_page_have_the_same_colours():
    shades = variables("kvr-shade")
    assert [shades[f"kvr-{i}"][0] for i in range(len(SHADES))] == list(SHADES)
    assert {"question": shades["kvr-q"][0], "answer": shades["kvr-a"][0]} == ROLE_COLOURS
    assert (of_all("kvr-text")[0], of_all("kvr-faded")[0]) == (TEXT, FADED_TEXT)
    for (fill, colour), shade in zip(picture().colours(), picture().shades, strict=True):
        assert contrast(fill, colour) >= 4.5, shade


def test_the_script_knows_text_only():
    code = SCRIPT.read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|setAttribute\(\"on", code)
    assert max(map(len, code.splitlines())) <= 120
    assert len(code.splitlines()) <= 300


def test_the_drawing_shows_every_token_and_breaks_lines():
    ax = draw_tokens(TokenPicture(HOSTILE, ["thought"] * 9, list(range(9)), [[0, 8]]), columns=40)
    texts = [t.get_text() for t in ax.texts]
    assert {"$\\frac", "a↵b", "·", "&amp;"} <= set(texts)
    ax.figure.canvas.draw()
    rows = {t.get_text(): t.get_position()[1] for t in ax.texts}
    assert rows["·"] == rows["a↵b"] + 1
    plt.close(ax.figure)


def test_long_pictures_say_what_they_leave_out():
    many = TokenPicture(["word "] * 100, ["thought"] * 100, [0.5] * 100)
    ax = draw_tokens(many, columns=20, max_lines=5)
    assert "... 20 more lines" in [t.get_text() for t in ax.texts]
    plt.close(ax.figure)


def test_parts_that_do_not_fit_together_are_refused():
    with pytest.raises(KvreproError, match="7 tokens, 6 roles and 7 scores"):
        picture(roles=["thought"] * 6)
    for kept in ([[]], [[0, 7]]):
        with pytest.raises(KvreproError, match="kept nothing, or a position"):
            picture(kept=kept)


def test_roles_come_from_the_record():
    class Tokenizer:
        def decode(self, ids):
            return chr(96 + ids[0])

    made = picture_of(Tokenizer(), [1, 2, 3, 4, 5], 2, 4, [0.0] * 5)
    assert made.tokens == list("abcde")
    assert made.roles == ["question", "question", "thought", "thought", "answer"]
