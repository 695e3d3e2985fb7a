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


def prompt_ids(
    prompts: Prompt | Iterable[Prompt], render: Callable[[Any], Sequence[int]], vocab_size: int
) -> list[list[int]]:
    """Token ids of one prompt or many; `render` gives those of a text or of a conversation, by the chat template.

    Raises `KvreproError` for a prompt of no known form, an id from `vocab_size` on, or messages that the template
    refuses.
    """
    from jinja2 import TemplateError

    found = []
    for i, prompt in enumerate(_listed(prompts)):
        is_text = isinstance(prompt, str) or _is_conversation(i, prompt)
        try:
            ids = list(render(prompt)) if is_text else [int(t) for t in prompt]
        except TemplateError as error:
            raise KvreproError(f"prompt {i}: the model's chat template refuses the messages: {error}") from error
        if wrong := [t for t in ids if not 0 <= t < vocab_size]:
            raise KvreproError(f"prompt {i}: token id {wrong[0]}, the model has 0 to {vocab_size - 1}")
        found.append(ids)
    return found


def _listed(prompts: Any) -> list[Any]:
    if isinstance(prompts, str):
        return [prompts]
    if not isinstance(prompts, Iterable) or isinstance(prompts, Mapping | bytes | set | frozenset):
        raise KvreproError(f"prompts={_shown(prompts)}: {EXPECTED}")
    items = list(prompts)
    # a flat list of ids or of messages is one prompt
    return [items] if items and all(isinstance(item, Integral | Mapping) for item in items) else items


def _is_conversation(number: int, prompt: Any) -> bool:
    """True for chat messages, False for token ids."""
    if not isinstance(prompt, list | tuple):
        raise KvreproError(f"prompt {number} is {_shown(prompt)}: {EXPECTED}")
    if not prompt:
        raise KvreproError(f"prompt {number} is empty: {EXPECTED}")
    if all(isinstance(t, Integral) and not isinstance(t, bool) for t in prompt):
        return False
    for message in prompt:
        if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise KvreproError(f"prompt {number} holds {_shown(message)}: {EXPECTED}")
    if prompt[-1]["role"] == "assistant":
        raise KvreproError(f"prompt {number} ends with a message of the assistant: end it with the user's")
    return True


def _shown(value: Any) -> str:
    text = repr(value)
    hint = " (give its tolist())" if hasattr(value, "tolist") else ""
    return f"{type(value).__name__} {text[:60]}{'...' if len(text) > 60 else ''}{hint}"
