"""Think tags of one and of several tokens, and separators, on stand-in tokenizers trained in the test."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from kvrepro.errors import KvreproError
from kvrepro.methods.learned.loading import named_separator_ids
from kvrepro.models.tokens import ThinkTags

TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}{{ '<thought>\n' }}"


def byte_level(lines: list[str], added: tuple[str, ...] = (), template: str | None = TEMPLATE):
    """A byte-level BPE tokenizer whose merges come from `lines` alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, min_frequency=2, show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template)
    fast.add_tokens(list(added))
    return fast


@pytest.fixture(scope="module")
def exaone():
    """Like EXAONE-Deep: the tag is ordinary text, and its last piece merges with the newline behind it."""
    return byte_level([">\n\n", ">\n", "ght", "</"] * 20)


def test_a_tag_of_its_own_is_one_token():
    tokenizer = byte_level(["ab"] * 3, ("</think>",))
    tags = ThinkTags.of(tokenizer)
    assert len(tags.end) == 1
    reply = tokenizer.encode("so 7</think>")
    assert tags.closes(reply) == 1
    assert not tags.closes(reply[:-1])


@pytest.mark.parametrize("behind", ["", "\n", "\n\n", "\n\nThe answer"])
def test_a_tag_of_several_tokens_is_found_whatever_follows_it(exaone, behind):
    tags = ThinkTags.of(exaone, "</thought>")
    assert len(tags.end) > 1
    reply = exaone.encode(f"so 7 > 6 </thought>{behind}")
    if behind.startswith("\n"):
        # this is the trap: the ids of the tag alone do not occur in the reply
        ids = [tuple(reply[i : i + len(tags.end)]) for i in range(len(reply))]
        assert tags.end not in ids
    closed = [n for n in range(1, len(reply) + 1) if tags.closes(reply[:n])]
    assert len(closed) == 1, "the tag closes at one token, not before it is complete and not again"
    n_tag = tags.closes(reply[: closed[0]])
    tail = exaone.decode(reply[closed[0] - n_tag : closed[0]])
    assert "</thought>" in tail
    assert "</thought>" not in exaone.decode(reply[: closed[0] - 1])


def test_the_engine_splits_thought_and_answer_at_a_tag_of_several_tokens(exaone, random_model, monkeypatch):
    """A model that is forced to write a reply: roles must be counted by the tag in it."""
    import torch

    from kvrepro.engine.engine import Engine
    from kvrepro.engine.requests import Request, SamplingConfig
    from kvrepro.methods.table import create_method

    reply = exaone.encode("so 7</thought>\n\n7")
    assert max(reply) < 320
    tags = ThinkTags.of(exaone, "</thought>")
    engine = Engine(
        random_model,
        create_method("full"),
        tags,
        (),
        sampling=SamplingConfig(0),
        batch_rows=1,
        max_new_tokens=len(reply),
    )
    written = iter(reply)
    monkeypatch.setattr("kvrepro.engine.sampling.sample_tokens", lambda *args: torch.tensor([next(written)]))
    # the model's vocabulary is smaller than the tokenizer's: what is fed does not matter here
    step = engine.decoder.step
    engine.decoder.step = lambda tokens, *rest: step(tokens % 200, *rest)
    [done] = engine.run([Request("0", 0, (5, 6, 7))])
    assert exaone.decode(done.token_ids[: done.n_thinking_tokens]).startswith("so 7</thought>")
    assert exaone.decode(done.token_ids[done.n_thinking_tokens :]) == "7"
    assert done.status == "length_limit"


def test_a_model_without_thoughts_never_closes_one():
    tags = ThinkTags.of(byte_level(["ab"] * 3), None)
    assert tags.end == ()
    assert not tags.closes([1, 2, 3])


def test_a_template_that_never_mentions_the_tag_is_refused():
    tokenizer = byte_level(["ab"] * 3, template="{{ messages[0]['content'] }}")
    with pytest.raises(KvreproError, match=r"chat template .* never mentions '</think>'.*think_end: null"):
        ThinkTags.of(tokenizer)


def test_named_separators_must_be_one_token_each():
    tokenizer = byte_level(["ab"] * 5)
    assert [tokenizer.decode([i]) for i in named_separator_ids(tokenizer, [";", "."])] == [".", ";"]
    with pytest.raises(KvreproError, match=r"separators \['xyz'\]: expected texts that are one token"):
        named_separator_ids(tokenizer, [".", "xyz"])
