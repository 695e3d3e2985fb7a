"""Text of replies: special tokens go, think tags stay, whatever the tokenizer calls them."""

from __future__ import annotations

import pytest

from kvrepro.models.tokens import ThinkTags, reply_parts

tokenizers = pytest.importorskip("tokenizers")
WORDS = ["so", "it", "is", "7", "<think>", "</think>", "[/THINK]", "<eos>", "<reserved>", "<|begin|>", "<|end|>"]


def tokenizer(special: list[str]):
    """A word tokenizer in which the named tags are special tokens, and the other tags ordinary words."""
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(WORDS)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="<eos>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(["<eos>", "<reserved>", *special])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")


def ids_of(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def parts(loaded, text: str, tags: ThinkTags) -> tuple[str, int | None]:
    """Text and offset of a reply, its thought closed where the ids say so."""
    ids = ids_of(text)
    return reply_parts(loaded, ids, next((n for n in range(1, len(ids) + 1) if tags.closes(ids[:n])), None), tags)


def split(loaded, text: str, *tags: str) -> tuple[list[str], list[str]]:
    """Words up to the answer, and the answer's."""
    whole, start = parts(loaded, text, ThinkTags.of(loaded, *tags))
    assert whole[:start].endswith("</think>")
    return whole[:start].split(), whole[start:].split()


REPLY = "so <reserved> it </think> is 7 <eos>"


@pytest.mark.parametrize("special", [[], ["</think>"], ["<think>", "</think>"]])
def test_think_tags_stay_and_other_special_tokens_go(special):
    loaded = tokenizer(special)
    assert split(loaded, REPLY) == (["so", "it", "</think>"], ["is", "7"])
    assert split(loaded, "<think> so </think> 7") == (["<think>", "so", "</think>"], ["7"])


def test_skipping_special_tokens_alone_would_lose_the_tag():
    """What `reply_parts` is for: the thought would become part of the answer."""
    plain = tokenizer(["</think>"]).decode(ids_of(REPLY), skip_special_tokens=True)
    assert "</think>" not in plain


@pytest.mark.parametrize("special", [[], ["[/THINK]"]])
def test_a_closing_tag_of_another_name_reads_as_the_usual_one(special):
    from kvrepro.graders import grade

    loaded = tokenizer(special)
    assert ThinkTags.of(loaded, "[/THINK]").end == (WORDS.index("[/THINK]"),)
    assert split(loaded, "it is so [/THINK] 7 <eos>", "[/THINK]") == (["it", "is", "so", "</think>"], ["7"])
    text, start = parts(loaded, "it is so [/THINK] 7 <eos>", ThinkTags.of(loaded, "[/THINK]"))
    assert grade(text, "7", "integer").correct
    assert grade(text, "7", "integer", answer_start=start).correct


def test_an_opening_tag_that_does_not_pair_stays_where_it_is_named():
    loaded = tokenizer(["<|begin|>", "<|end|>"])
    assert split(loaded, "<|begin|> so <|end|> 7", "<|end|>", "<|begin|>") == (["<|begin|>", "so", "</think>"], ["7"])
    # not named, it is a special token like any other
    assert split(loaded, "<|begin|> so <|end|> 7", "<|end|>") == (["so", "</think>"], ["7"])


def test_an_open_thought_has_no_answer_and_a_model_without_thoughts_nothing_else():
    loaded = tokenizer([])
    assert parts(loaded, "so it is", ThinkTags.of(loaded)) == ("so it is", None)
    assert parts(loaded, "so it is", ThinkTags.of(loaded, None)) == ("so it is", 0)


LETTERS = ["<", "/", "t", "h", "i", "n", "k", ">", " ", "7", "8", "a"]


def spelling():
    """Letters, and the closing tag both as a token of its own and in letters."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*LETTERS, "<eos>"])}, unk_token="<eos>"))
    inner.decoder = decoders.Fuse()
    loaded = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")
    loaded.add_tokens(["</think>"])
    return loaded


TAG = len(LETTERS) + 1
SPELT = [LETTERS.index(letter) for letter in "</think>"]


@pytest.mark.parametrize(
    ("before", "behind", "answer"),
    [
        ([9], [10], "8"),
        (SPELT, [10], "8"),  # a thought that mentions the tag
        ([9], [10, *SPELT, 9], "8</think>7"),  # an answer that does
        ([*SPELT, 9, *SPELT], [*SPELT, 10, TAG, 9], "</think>8</think>7"),
    ],
)
def test_the_tag_in_words_is_not_the_tag(before, behind, answer):
    loaded = spelling()
    tags = ThinkTags.of(loaded)
    reply = [*before, TAG, *behind, len(LETTERS)]
    closed = [n for n in range(1, len(reply) + 1) if tags.closes(reply[:n])]
    assert closed[0] == len(before) + 1
    text, start = reply_parts(loaded, reply, closed[0], tags)
    assert (text[start:], text[:start]) == (answer, loaded.decode(before) + "</think>")


def test_a_thought_that_only_mentions_the_tag_is_open():
    loaded = spelling()
    tags = ThinkTags.of(loaded)
    reply = [9, *SPELT, 10]
    assert not any(tags.closes(reply[:n]) for n in range(1, len(reply) + 1))
    assert reply_parts(loaded, reply, None, tags) == ("7</think>8", None)
