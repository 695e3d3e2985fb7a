"""Think tags, rendered prompts and the parts of a reply, read from the tokenizer and never hard-coded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import KvreproError, UnknownNameError

THINK_END_TEXT = "</think>"
OPEN_THOUGHT = ("template", "always")


def opening_tag(think_end: str | None, think_start: str | None = None) -> str | None:
    """The text that opens the thought: `think_start`, else the closing tag without its `/`, else None."""
    if think_start is not None or think_end is None:
        return think_start
    return think_end.replace("/", "", 1) if "/" in think_end else None


@dataclass(frozen=True)
class ThinkTags:
    """The tags around the thought.

    Attributes:
        end: ids of the closing tag; several where it is no token of its own, none for a model that does not think.
        text: the closing tag as text, None for a model that does not think.
        start: the opening tag as text, None where it is not known.
        decode: ids to text; only for a closing tag of several tokens. Its last piece may swallow what follows (`>` and
            a newline are often one token), so such a tag is found in the text and not by its ids.
        closers: ids of all tokens in which the tag may end, so that only these are decoded.
        open_thought: what `render_prompt` does where the chat template does not open the thought: `always` appends
            the opening tag and a newline, `template` leaves the prompt as it is, None does too, but warns.
    """

    end: tuple[int, ...]
    text: str | None = None
    start: str | None = None
    decode: Callable[[Sequence[int]], str] | None = field(default=None, compare=False)
    closers: frozenset[int] = field(default=frozenset(), compare=False)
    open_thought: str | None = None

    @classmethod
    def of(
        cls, tokenizer, text: str | None = THINK_END_TEXT, start: str | None = None, open_thought: str | None = None
    ) -> ThinkTags:
        """Find the tags in a tokenizer: the closing one (None for a model that does not think) and the opening one.

        `start` None is the closing tag without its `/`; `open_thought` as in `ThinkTags`. Raises `KvreproError` where
        the closing tag does not survive a round trip, so roles could not be told apart; where it is neither a token of
        its own nor one of the tags is mentioned in the chat template, so the model would never write it; or where the
        thought is to be opened with a tag that is not known.
        """
        if open_thought not in (None, *OPEN_THOUGHT):
            raise UnknownNameError("open_thought", open_thought, OPEN_THOUGHT)
        if text is None:
            return cls(())
        start = opening_tag(text, start)
        if open_thought == "always" and start is None:
            raise KvreproError(
                f"open_thought='always' needs the opening tag, which does not follow from {text!r}: name it with "
                "think_start, or leave prompts as the chat template renders them with open_thought: template"
            )
        ids = tuple(tokenizer.encode(text, add_special_tokens=False))
        unknown, name = getattr(tokenizer, "unk_token_id", None), _name(tokenizer)
        if not ids or (unknown is not None and unknown in ids) or text not in tokenizer.decode(ids):
            raise KvreproError(
                f"the tokenizer of {name!r} does not know {text!r}: the model is no reasoning model of this form; name "
                "its closing tag with think_end=..., or think_end: null in models.yaml if it does not think"
            )
        if len(ids) == 1:
            return cls(ids, text, start, open_thought=open_thought)
        template = getattr(tokenizer, "chat_template", None)
        tags = [tag for tag in (text, start) if tag is not None]
        if isinstance(template, str) and open_thought != "always" and not any(tag in template for tag in tags):
            raise KvreproError(
                f"the chat template of {name!r} never mentions {' or '.join(map(repr, tags))}, and {text!r} is no "
                "token of its own: the model would never close a thought. Name its tags (think_end, and think_start "
                "where that is not the same without `/`), have the thought opened with open_thought: always, or say "
                "think_end: null if it does not think"
            )

        def decode(tokens: Sequence[int]) -> str:
            return tokenizer.decode(list(tokens), skip_special_tokens=False)

        # a token that may end the tag begins with some end of the tag
        tails = tuple(text[i:] for i in range(1, len(text)))
        closers = frozenset(i for piece, i in tokenizer.get_vocab().items() if piece.startswith(tails))
        return cls(ids, text, start, decode, closers | {ids[-1]}, open_thought)

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


def reply_parts(tokenizer, token_ids: Sequence[int], n_thinking: int | None, tags: ThinkTags) -> tuple[str, int | None]:
    """Text of a reply without special tokens but with its think tags, and where the answer begins in it.

    R1's tokenizer holds the tags as ordinary added tokens; others mark them as special, and `skip_special_tokens` would
    drop them: the thought would then be graded as part of the answer. The closing tag of another name is written as
    `</think>`, so that whatever reads replies needs to know one.

    `n_thinking`: tokens up to and including the closing tag; None for a thought that was not closed. `text[:offset]`
    ends with `</think>`, whatever tags stand in words elsewhere; the offset is None for a thought that was not closed,
    0 for a model that does not think.
    """
    names = {name for name in (tags.text, tags.start, THINK_END_TEXT, opening_tag(THINK_END_TEXT)) if name is not None}
    added = getattr(tokenizer, "added_tokens_decoder", {})
    hidden = {i for i, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    dropped = {i for i in hidden if tokenizer.decode([i]).strip() not in names}

    def decode(ids: Sequence[int]) -> str:
        return tokenizer.decode([i for i in ids if i not in dropped], skip_special_tokens=False)

    text = decode(token_ids)
    if tags.text is None:
        return text, 0
    if n_thinking is None:
        return text, None
    # counted, not measured: how a decoder joins pieces may depend on what follows them
    at = -1
    for _ in range(max(1, decode(token_ids[:n_thinking]).count(tags.text))):
        at = text.index(tags.text, at + 1)
    return text[:at] + THINK_END_TEXT + text[at + len(tags.text) :], at + len(THINK_END_TEXT)


def render_prompt(tokenizer, question: str | Sequence[Mapping[str, str]], tags: ThinkTags | None = None) -> list[int]:
    """Ids of the question as the only user message, or of chat messages, rendered by the model's own chat template.

    What follows where the rendered prompt does not open the thought, `tags.open_thought` says; without tags nothing
    does. Raises `KvreproError` where the tokenizer has no chat template.

    Source: DynTS `utils/utils.py` (no system prompt, no suffix, no further special tokens).
    """
    text = _rendered(tokenizer, question)
    if tags is not None and _lacks_opening(text, tags):
        if tags.open_thought == "always":
            text += f"{tags.start}\n"
        elif tags.open_thought is None:
            warnings.warn(
                f"the chat template of {_name(tokenizer)!r} does not end prompts with {tags.start!r}: unless the model "
                "writes the tag itself, it answers without a thought. Say open_thought='always' to have the tag "
                "appended, 'template' if the model writes it",
                RuntimeWarning,
                stacklevel=2,
            )
    return tokenizer.encode(text, add_special_tokens=False)


def opened_by_us(tokenizer, question: str, tags: ThinkTags) -> bool:
    """True where `render_prompt` appends the opening tag to the template's text."""
    return tags.open_thought == "always" and _lacks_opening(_rendered(tokenizer, question), tags)


def _rendered(tokenizer, question: str | Sequence[Mapping[str, str]]) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise KvreproError(f"the tokenizer of {_name(tokenizer)!r} has no chat template: pass token ids instead")
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else list(question)
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def _lacks_opening(prompt: str, tags: ThinkTags) -> bool:
    return tags.text is not None and tags.start is not None and not prompt.rstrip().endswith(tags.start)


def _name(tokenizer) -> str:
    return getattr(tokenizer, "name_or_path", "?")
