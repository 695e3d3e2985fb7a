"""Prompts of models that think: who opens the thought; and the tokens that end a reply."""

from __future__ import annotations

import copy
import warnings

import pytest

import kvrepro
from kvrepro.benchmarks.chains.language import build_tokenizer
from kvrepro.engine.generate import end_token_ids
from kvrepro.errors import KvreproError
from kvrepro.models.table import MODELS, ModelEntry, model_entry
from kvrepro.models.tokens import ThinkTags, render_prompt

QUESTION = "A m:=7; find m"


def closed_template():
    """The copy of R1's template that circulates in GGUF files: the assistant's turn begins empty."""
    tokenizer = build_tokenizer()
    assert "<think>\\n" in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace("<think>\\n", "")
    return tokenizer


def prompt(tokenizer, tags) -> list[int]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return render_prompt(tokenizer, QUESTION, tags)


def test_the_opening_tag_is_appended_where_the_template_lacks_it():
    whole, bare = build_tokenizer(), closed_template()
    opened = render_prompt(whole, QUESTION)
    assert prompt(bare, ThinkTags.of(bare, open_thought="always")) == opened
    assert prompt(bare, ThinkTags.of(bare, open_thought="template")) == opened[:-2]
    for how in ("always", "template", None):
        assert prompt(whole, ThinkTags.of(whole, open_thought=how)) == opened
    assert prompt(bare, ThinkTags.of(bare, None, open_thought="always")) == opened[:-2]


def test_where_nothing_is_said_the_prompt_stays_and_a_warning_says_what_to_say():
    bare = closed_template()
    with pytest.warns(RuntimeWarning, match=r"does not end prompts with '<think>'.*open_thought='always'"):
        assert render_prompt(bare, QUESTION, ThinkTags.of(bare)) == render_prompt(bare, QUESTION)


def test_generate_opens_the_thought(random_model):
    bare = closed_template()
    [found] = kvrepro.generate(random_model, bare, [QUESTION], max_new_tokens=2, open_thought="always")
    assert list(found.request.prompt_ids) == render_prompt(build_tokenizer(), QUESTION)
    with pytest.raises(KvreproError, match="unknown open_thought 'sometimes'; known: .*always"):
        kvrepro.generate(random_model, bare, [QUESTION], open_thought="sometimes")


def test_rows_say_who_opens_the_thought(tmp_path):
    assert {n: e.open_thought for n, e in MODELS.items() if e.open_thought != "always"} == {
        "qwen3-8b": "template",
        "qwen3-4b": "template",
    }
    assert model_entry("owner/model").open_thought is None
    (tmp_path / "config.json").write_text("{}")
    assert model_entry(str(tmp_path)).open_thought is None
    with pytest.raises(KvreproError, match="open_thought='no'; known are None, template, always"):
        ModelEntry("a", "a", "b/c", "auto", open_thought="no")


@pytest.mark.parametrize(
    ("end", "start", "opening"), [("</t>", None, "<t>"), ("</t>", "<u>", "<u>"), ("[/T]", None, "[T]")]
)
def test_the_opening_tag_is_named_or_follows_from_the_closing_one(end, start, opening):
    assert ModelEntry("a", "a", "b/c", "auto", think_end=end, think_start=start).opening_tag == opening


def test_an_opening_tag_that_does_not_follow_must_be_named():
    tags = {"think_end": "<|end|>"}
    with pytest.raises(KvreproError, match=r"has no `/`, so its opening tag must be named \(think_start\)"):
        ModelEntry("a", "a", "b/c", "auto", **tags)
    assert ModelEntry("a", "a", "b/c", "auto", **tags, open_thought="template").opening_tag is None
    assert ModelEntry("a", "a", "b/c", "auto", **tags, think_start="<|begin|>").opening_tag == "<|begin|>"


def test_the_advice_for_tags_that_the_template_does_not_mention_works():
    """A closing tag of several tokens whose opening tag, the only one in the template, does not pair by `/`."""
    from tests.models.test_tokens import byte_level

    tokenizer = byte_level(["ab"] * 3, template="{{ messages[0]['content'] }}<|begin|>")
    with pytest.raises(KvreproError, match=r"never mentions '<\|end\|>'.*Name its tags \(think_end, and think_start"):
        ThinkTags.of(tokenizer, "<|end|>")
    assert ThinkTags.of(tokenizer, "<|end|>", "<|begin|>").start == "<|begin|>"
    # or the thought is opened by us, and then the model has seen the tag
    bare = byte_level(["ab"] * 3, template="{{ messages[0]['content'] }}")
    tags = ThinkTags.of(bare, "<|end|>", "<|begin|>", "always")
    assert bare.decode(render_prompt(bare, "so?", tags)) == "so?<|begin|>\n"


def model_ending_at(model, generation, config):
    model = copy.deepcopy(model)
    model.generation_config.eos_token_id, model.config.eos_token_id = generation, config
    return model


@pytest.mark.parametrize(
    ("generation", "config", "expected"), [(5, 2, [5]), ([5, 6], 2, [5, 6]), (5, 5, [5]), ([5], None, [5])]
)
def test_end_tokens_that_contradict_each_other_are_named(random_model, generation, config, expected):
    tokenizer = build_tokenizer()
    model = model_ending_at(random_model, generation, config)
    own = tokenizer.convert_ids_to_tokens(5)
    with pytest.warns(RuntimeWarning, match=rf"ends replies at '{own}' \(5\).* the tokenizer names '.*' \(2\)"):
        assert end_token_ids(model, tokenizer) == expected


@pytest.mark.parametrize(
    ("generation", "config", "expected"), [(2, 2, [2]), ([5, 2], 5, [5, 2]), (None, 7, [2]), (2, 7, [2])]
)
def test_end_tokens_that_agree_with_the_tokenizer_pass(random_model, generation, config, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert end_token_ids(model_ending_at(random_model, generation, config), build_tokenizer()) == expected
