"""What `generate` takes for prompts: texts, conversations and token ids, one of them or a list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

from ..errors import KvreproError

# a text, a conversation as chat messages, or token ids
Prompt = str | Sequence[Mapping[str, str]] | Sequence[int]
EXPECTED = (
    'expected a text, a list of token ids, or a list of chat messages {"role": "user", "content": "..."}; or a list '
    "of these"
)


def listed(prompts: Prompt | Iterable[Prompt]) -> list[Prompt]:
    """One prompt or many, as a list of checked prompts.

    Raises:
        KvreproError: names the prompt that is none, and what was expected.
    """
    if isinstance(prompts, str):
        return [prompts]
    if not isinstance(prompts, Iterable) or isinstance(prompts, Mapping | bytes | set | frozenset):
        raise KvreproError(f"prompts={_shown(prompts)}: {EXPECTED}")
    items = list(prompts)
    if items and all(isinstance(item, Integral | Mapping) for item in items):
        # a flat list of ids or of messages is one prompt
        items = [items]
    return [_checked(i, item) for i, item in enumerate(items)]


def token_ids(prompts: Sequence[Prompt], render: Callable[[Any], Sequence[int]], vocab_size: int) -> list[list[int]]:
    """The ids of each prompt.

    Args:
        render: ids of a text or of a conversation, by the chat template.
        vocab_size: ids from here on do not exist.

    Raises:
        KvreproError: an id that the model does not have, or messages that the chat template refuses.
    """
    from jinja2 import TemplateError

    found = []
    for i, prompt in enumerate(prompts):
        try:
            ids = render(prompt) if isinstance(prompt, str) or not _are_ids(prompt) else [int(t) for t in prompt]
        except TemplateError as error:
            raise KvreproError(f"prompt {i}: the model's chat template refuses the messages: {error}") from error
        if wrong := [t for t in ids if not 0 <= t < vocab_size]:
            raise KvreproError(f"prompt {i}: token id {wrong[0]}, the model has 0 to {vocab_size - 1}")
        found.append(list(ids))
    return found


def _checked(number: int, prompt: Any) -> Prompt:
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list | tuple):
        raise KvreproError(f"prompt {number} is {_shown(prompt)}: {EXPECTED}")
    if not prompt:
        raise KvreproError(f"prompt {number} is empty: {EXPECTED}")
    if _are_ids(prompt):
        return list(prompt)
    for message in prompt:
        if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise KvreproError(f"prompt {number} holds {_shown(message)}: {EXPECTED}")
    if prompt[-1]["role"] == "assistant":
        raise KvreproError(f"prompt {number} ends with a message of the assistant: end it with the user's")
    return list(prompt)


def _are_ids(prompt: Sequence[Any]) -> bool:
    return all(isinstance(t, Integral) and not isinstance(t, bool) for t in prompt)


def _shown(value: Any) -> str:
    text = repr(value)
    hint = " (give its tolist())" if hasattr(value, "tolist") else ""
    return f"{type(value).__name__} {text[:60]}{'...' if len(text) > 60 else ''}{hint}"
