"""User messages for the real benchmarks: DynTS' bare one, and the one that DeepSeek recommends."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from ..errors import check_known

PROMPT_STYLES = ("dynts", "deepseek")
DEEPSEEK_SUFFIX = "\nPlease reason step by step, and put your final answer within \\boxed{}."
_TRUTH, _CONSENT = " (True or False)", " (Yes or No)"
_TYPE_HINTS = {"true": _TRUTH, "false": _TRUTH, "yes": _CONSENT, "no": _CONSENT}


def user_message(problem: str, gold: str, style: str = "dynts") -> str:
    """The text of the user turn, before the chat template.

    Source: `dynts` is Robin930/DynTS a55dc37 (bare problem; golds that are true/false or yes/no add a hint, which leaks
    the answer's type); `deepseek` is the README of deepseek-ai/DeepSeek-R1.
    """
    check_known("prompt style", PROMPT_STYLES, style)
    if style == "deepseek":
        return problem + DEEPSEEK_SUFFIX
    return problem + _TYPE_HINTS.get(gold.strip().lower(), "")


def prompt_hash(prompts: Iterable[str]) -> str:
    """SHA-256 over rendered prompts in order; a run's manifest records it."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(prompt.encode() + b"\x1f")
    return digest.hexdigest()
