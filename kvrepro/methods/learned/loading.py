"""What a method needs beside the model's weights: a predictor, query statistics, a judge, separators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import KvreproError
from ..base import EvictionMethod
from .folder import LEARNED, own_folder
from .importance import load_predictor_for
from .judge import load_judge
from .query_statistics import load_statistics

# separators as single tokens; Ġ and Ċ are how byte-level vocabularies write space and newline
SEPLLM_MARKS = (".", ",", "?", "!", ";", ":", " ", "\t", "\n", "Ġ", "ĉ", "Ċ")
DYNTS_MARKS = (".", ",", "?", "!", ";", ":", " ", "\n", "Ġ", "Ċ")

# from a loaded model and a folder, None for the model's own
_READERS = {
    "predictor": load_predictor_for,
    "calibration": lambda model, folder: load_statistics(folder or own_folder("calibration", model)),
    "judge": lambda model, folder: load_judge(folder or own_folder("judge", model)),
}


def separator_ids(tokenizer, *, dynts: bool = False) -> tuple[int, ...]:
    """Token ids of the separators that the vocabulary holds as single tokens; with `dynts` also BOS, without tab.

    Source: SepLLM, `HKUDS/SepLLM`; docs/methods.md#sepllm.
    """
    vocabulary = tokenizer.get_vocab()
    found = {vocabulary[mark] for mark in (DYNTS_MARKS if dynts else SEPLLM_MARKS) if mark in vocabulary}
    if dynts and tokenizer.bos_token_id is not None:
        found.add(tokenizer.bos_token_id)
    return tuple(sorted(found))


def named_separator_ids(tokenizer, texts: Sequence[str]) -> tuple[int, ...]:
    """Token ids of separators that a model's row names; `KvreproError` where one of them is not one token."""
    ids = {text: tokenizer.encode(text, add_special_tokens=False) for text in texts}
    split = [text for text, tokens in ids.items() if len(tokens) != 1]
    if split or not ids:
        raise KvreproError(f"separators {split}: expected texts that are one token each in this model's tokenizer")
    return tuple(sorted({tokens[0] for tokens in ids.values()}))


def load_learned(
    method: type[EvictionMethod], model, tokenizer, given: Mapping[str, Any] | None = None
) -> dict[str, object]:
    """Options for `create_method` that come from files of the model or from its tokenizer.

    `given`: options that the caller has set already, and folders as text: `predictor`, `calibration`, `judge`. Raises
    `KvreproError` where a file is missing, or the method is an oracle, which needs a finished trace.
    """
    given = given or {}
    found: dict[str, object] = {}
    for need in method.needs:
        value = given.get(need)
        if need in LEARNED:
            is_loaded = value is not None and not isinstance(value, str | Path)
            found[need] = value if is_loaded else _READERS[need](model, value)
        elif need == "separators":
            found[need] = value or separator_ids(tokenizer, dynts=method.name.endswith("_dynts"))
        elif need == "trace" and given.get("traces") is None:
            raise KvreproError(
                f"{method.name} looks into the future of a finished trace, so it cannot generate. Use it in "
                "teacher-forced mode: kvrepro.analysis.fidelity, or the notebook `fidelity`"
            )
    return found
