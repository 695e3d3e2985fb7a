"""The picture of a trace: escaped, shaded by rank, with marks where an eviction took a token."""

from __future__ import annotations

from html.parser import HTMLParser

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import pytest

from kvrepro.errors import KvreproError
from kvrepro.figures.token_picture import SHADES, TokenPicture, draw_tokens, picture_of

HOSTILE = ['<script>alert("x")</script>', '" onmouseover="x', "$\\frac", "a\nb", "\x00", "&amp;"]


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
        self.tags, self.attributes, self.text = set(), set(), ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def test_model_text_cannot_become_markup():
    roles = ["thought"] * len(HOSTILE)
    html = TokenPicture(HOSTILE, roles, [0.1] * len(HOSTILE), [[0, 5]], "<b>title").html()
    parsed = Tags()
    parsed.feed(html)
    assert parsed.tags <= {"div", "span", "s", "sub", "br"}
    assert parsed.attributes <= {"style", "title"}
    assert '<script>alert("x")</script>' in parsed.text
    assert "<b>title" in parsed.text


def test_the_html_says_position_score_and_loss():
    html = picture().html()
    assert 'title="position 1, thought, importance 0.1, lost at eviction 1"' in html
    assert html.count("<s>") == 3  # two tokens and the legend
    assert "lost at eviction" not in picture(kept=()).html()


def test_the_drawing_shows_every_token_and_breaks_lines():
    ax = draw_tokens(TokenPicture(HOSTILE, ["thought"] * 6, [1, 2, 3, 4, 5, 6], [[0, 5]]), columns=40)
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
