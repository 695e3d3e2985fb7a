"""Token roles: which tokens are prompt, thinking and answer, read from the tokenizer and never hard-coded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import KvreproError

THINK_END_TEXT = "</think>"


@dataclass(frozen=True)
class ThinkTags:
    """Token ids that close the thought; more than one where the tag is not a token of its own."""

    end: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer, text: str = THINK_END_TEXT) -> ThinkTags:
        """Find the closing tag in a tokenizer.

        Raises:
            KvreproError: the tag does not survive a round trip, so roles could not be told apart.
        """
        ids = tokenizer.encode(text, add_special_tokens=False)
        unknown = getattr(tokenizer, "unk_token_id", None)
        if not ids or (unknown is not None and unknown in ids) or text not in tokenizer.decode(ids):
            raise KvreproError(
                f"the tokenizer of {getattr(tokenizer, 'name_or_path', '?')!r} does not know {text!r}: the model is "
                "no reasoning model of this form; name its closing tag with think_end=..."
            )
        return cls(tuple(ids))

    def closes(self, tokens: list[int]) -> bool:
        """True if the reply's last token completes the closing tag."""
        return tuple(tokens[-len(self.end) :]) == self.end


def reply_text(tokenizer, token_ids: Sequence[int], think_end: str = THINK_END_TEXT) -> str:
    """Text of a reply without special tokens, but always with its think tags.

    R1's tokenizer holds the tags as ordinary added tokens; others mark them as special, and `skip_special_tokens` would
    drop them: the thought would then be graded as part of the answer. A closing tag of another name is written as
    `</think>`, so that whatever reads replies needs to know one.
    """
    tags = {think_end, think_end.replace("/", ""), THINK_END_TEXT, THINK_END_TEXT.replace("/", "")}
    added = getattr(tokenizer, "added_tokens_decoder", {})
    hidden = {i for i, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    kept = {i for i in hidden if tokenizer.decode([i]).strip() in tags}
    ids = [i for i in token_ids if i not in hidden or i in kept]
    text = tokenizer.decode(ids, skip_special_tokens=False)
    return text if think_end == THINK_END_TEXT else text.replace(think_end, THINK_END_TEXT)


def render_prompt(tokenizer, question: str) -> list[int]:
    """Ids of the question as the only user message, rendered by the model's own chat template.

    Source: DynTS `utils/utils.py` (no system prompt, no suffix, no further special tokens).
    """
    if not getattr(tokenizer, "chat_template", None):
        raise KvreproError(
            f"the tokenizer of {getattr(tokenizer, 'name_or_path', '?')!r} has no chat template: pass token ids instead"
        )
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tokenizer.encode(text, add_special_tokens=False)
