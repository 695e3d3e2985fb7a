"""Token roles: which tokens are prompt, thinking and answer, read from the tokenizer and never hard-coded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from .errors import KvreproError

THINK_START_TEXT, THINK_END_TEXT = "<think>", "</think>"


@dataclass(frozen=True)
class ThinkTags:
    """The tag that closes the thought.

    Attributes:
        end: its token ids; several where the tag is no token of its own, none for a model that does not think.
        text: the tag as text, and
        decode: ids to text; both only for a tag of several tokens. Its last piece may swallow what follows (`>` and a
            newline are often one token), so such a tag is found in the text and not by its ids.
        closers: ids of all tokens in which the tag may end, so that only these are decoded.
    """

    end: tuple[int, ...]
    text: str | None = None
    decode: Callable[[Sequence[int]], str] | None = field(default=None, compare=False)
    closers: frozenset[int] = field(default=frozenset(), compare=False)

    @classmethod
    def of(cls, tokenizer, text: str | None = THINK_END_TEXT) -> ThinkTags:
        """Find the closing tag in a tokenizer; `text` None is a model that does not think.

        Raises:
            KvreproError: the tag does not survive a round trip, so roles could not be told apart; or it is neither a
                token of its own nor mentioned in the chat template, so the model would never write it.
        """
        if text is None:
            return cls(())
        ids = tuple(tokenizer.encode(text, add_special_tokens=False))
        unknown = getattr(tokenizer, "unk_token_id", None)
        name = getattr(tokenizer, "name_or_path", "?")
        if not ids or (unknown is not None and unknown in ids) or text not in tokenizer.decode(ids):
            raise KvreproError(
                f"the tokenizer of {name!r} does not know {text!r}: the model is no reasoning model of this form; name "
                "its closing tag with think_end=..., or think_end: null in models.yaml if it does not think"
            )
        if len(ids) == 1:
            return cls(ids)
        template = getattr(tokenizer, "chat_template", None)
        opening = text.replace("/", "")
        if isinstance(template, str) and text not in template and opening not in template:
            raise KvreproError(
                f"the chat template of {name!r} never mentions {text!r} or {opening!r}, and {text!r} is no token of "
                "its own: the model would never close a thought. Name its tags in models.yaml (think_start, "
                "think_end), or think_end: null if it does not think"
            )

        def decode(tokens: Sequence[int]) -> str:
            return tokenizer.decode(list(tokens), skip_special_tokens=False)

        # a token that may end the tag begins with some end of the tag
        tails = tuple(text[i:] for i in range(1, len(text)))
        closers = frozenset(i for piece, i in tokenizer.get_vocab().items() if piece.startswith(tails))
        return cls(ids, text, decode, closers | {ids[-1]})

    def closes(self, tokens: list[int]) -> int:
        """How many of the reply's last tokens make up the closing tag; 0 while it is not complete."""
        n = len(self.end)
        if not n or (self.decode is None and tuple(tokens[-n:]) != self.end):
            return 0
        if self.decode is None:
            return n
        if tokens[-1] not in self.closers or self.text in self.decode(tokens[-2 * n : -1]):
            return 0
        # the shortest tail that spells the tag; pieces may differ from those of the tag on its own
        return next((k for k in range(1, 2 * n + 1) if self.text in self.decode(tokens[-k:])), 0)


def reply_text(tokenizer, token_ids: Sequence[int], think_end: str | None = THINK_END_TEXT) -> str:
    """Text of a reply without special tokens, but always with its think tags.

    R1's tokenizer holds the tags as ordinary added tokens; others mark them as special, and `skip_special_tokens` would
    drop them: the thought would then be graded as part of the answer. A closing tag of another name is written as
    `</think>`, so that whatever reads replies needs to know one.
    """
    think_end = think_end or THINK_END_TEXT
    tags = {think_end, think_end.replace("/", ""), THINK_END_TEXT, THINK_END_TEXT.replace("/", "")}
    added = getattr(tokenizer, "added_tokens_decoder", {})
    hidden = {i for i, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    kept = {i for i in hidden if tokenizer.decode([i]).strip() in tags}
    ids = [i for i in token_ids if i not in hidden or i in kept]
    text = tokenizer.decode(ids, skip_special_tokens=False)
    return text if think_end == THINK_END_TEXT else text.replace(think_end, THINK_END_TEXT)


def render_prompt(tokenizer, question: str | Sequence[Mapping[str, str]]) -> list[int]:
    """Ids of the question as the only user message, or of chat messages, rendered by the model's own chat template.

    Source: DynTS `utils/utils.py` (no system prompt, no suffix, no further special tokens).
    """
    if not getattr(tokenizer, "chat_template", None):
        raise KvreproError(
            f"the tokenizer of {getattr(tokenizer, 'name_or_path', '?')!r} has no chat template: pass token ids instead"
        )
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else list(question)
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tokenizer.encode(text, add_special_tokens=False)
