"""The vocabulary of the tiny reasoners and its ordinary Hugging Face tokenizer.

Every piece that the problems are written in is one token: a line label (`C `), a definition (`n:=`),
a value mention (`n=`), an operand (`y`, `-y`), a digit. Text splits into pieces by longest match, so
a rendered prompt and a reply encode to the very tokens they were written in.
"""

from __future__ import annotations

from functools import cache
from string import ascii_lowercase as NAMES
from string import ascii_uppercase as LABELS

BOS, EOS, PAD = "<|begin_of_sentence|>", "<|end_of_sentence|>", "<|pad|>"
USER, ASSISTANT = "<|User|>", "<|Assistant|>"
THINK_START, THINK_END = "<think>", "</think>"
CONTROL = (PAD, BOS, EOS, USER, ASSISTANT)

OPTION_LETTERS = "ABCD"
WORDS = ("find ", "wait ", " ok", ". so ", " and the answer is ", "\\boxed{", "}", "; ", ",", "=", "\n", "\n\n", " ")

# the same template as R1-Distill: the assistant turn opens the thought, so a reply holds only `</think>`
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}" + USER + "{{ m['content'] }}"
    "{% elif m['role'] == 'assistant' %}" + ASSISTANT + "{{ m['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant turns are known, got ' + m['role']) }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '" + ASSISTANT + THINK_START + "\\n' }}{% endif %}"
)


@cache
def vocabulary() -> dict[str, int]:
    """Token text -> id, control tokens first. Order is part of the checkpoint format: append only."""
    pieces = [*CONTROL, THINK_START, THINK_END, *WORDS, *"0123456789"]
    pieces += [f"{digit} is " for digit in "0123456789"]
    pieces += [f"({letter})" for letter in OPTION_LETTERS] + list(OPTION_LETTERS)
    pieces += [f"{label} " for label in LABELS]
    for pattern in ("{}:=", "{}=", "{}", "+{}", "-{}", "*{}"):
        pieces += [pattern.format(name) for name in NAMES]
    assert len(pieces) == len(set(pieces))
    return {piece: i for i, piece in enumerate(pieces)}


def encode_pieces(pieces: list[str]) -> list[int]:
    """Ids of pieces that are known to be tokens; the generator's fast path around the tokenizer."""
    table = vocabulary()
    return [table[piece] for piece in pieces]


def build_tokenizer():
    """A fast tokenizer over `vocabulary()`, the same through every class that transformers may load it with.

    All pieces are added tokens, matched longest first on the raw text, because transformers reads any Qwen2
    checkpoint through its own `Qwen2Tokenizer`, which replaces the pre-tokeniser (seen in 5.23). Text outside
    the vocabulary has no tokens and is dropped.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(dict(vocabulary()), []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL])
    # think tags are ordinary text in R1's tokenizer too: `skip_special_tokens` must not hide them
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in vocabulary() if t not in CONTROL])
    control = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD, "unk_token": PAD}
    form = {"chat_template": CHAT_TEMPLATE, "padding_side": "left", "clean_up_tokenization_spaces": False}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=2048, **control, **form)
