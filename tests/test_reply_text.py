"""Text of replies: special tokens go, think tags stay, whatever the tokenizer calls them."""

from __future__ import annotations

import pytest

from kvrepro.tokens import ThinkTags, reply_text

tokenizers = pytest.importorskip("tokenizers")
WORDS = ["so", "it", "is", "7", "<think>", "</think>", "[/THINK]", "<eos>", "<reserved>"]


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


REPLY = "so <reserved> it </think> is 7 <eos>"


@pytest.mark.parametrize("special", [[], ["</think>"], ["<think>", "</think>"]])
def test_think_tags_stay_and_other_special_tokens_go(special):
    loaded = tokenizer(special)
    assert reply_text(loaded, ids_of(REPLY)).split() == ["so", "it", "</think>", "is", "7"]
    assert reply_text(loaded, ids_of("<think> so </think> 7")).split() == ["<think>", "so", "</think>", "7"]


def test_skipping_special_tokens_alone_would_lose_the_tag():
    """What `reply_text` is for: the thought would become part of the answer."""
    plain = tokenizer(["</think>"]).decode(ids_of(REPLY), skip_special_tokens=True)
    assert "</think>" not in plain


@pytest.mark.parametrize("special", [[], ["[/THINK]"]])
def test_a_closing_tag_of_another_name_reads_as_the_usual_one(special):
    from kvrepro.graders import grade

    loaded = tokenizer(special)
    assert ThinkTags.of(loaded, "[/THINK]").end == (WORDS.index("[/THINK]"),)
    text = reply_text(loaded, ids_of("it is so [/THINK] 7 <eos>"), "[/THINK]")
    assert text.split() == ["it", "is", "so", "</think>", "7"]
    assert grade(text, "7", "integer").correct
