"""Token sequences to measure or train on beside a model: its own replies to generated problems, or a plain text."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path

from ...errors import KvreproError
from ...files import read_rows
from ...models.table import ModelEntry
from ..questions import tiny_questions
from ..tiny.train import CARD_FILE
from ..traces import Trace, TraceOptions, generate_traces, select_traces

# generated problems, as for the importance predictor
PROBLEMS = TraceOptions(sizes=(8, 22), passes=(0, 6), max_new_tokens=1800)
HELD_OUT_SHARE = 0.1  # of a text, its end
MIN_TOKENS = 16  # of a part of a text
PROMPT_SHARE = 0.125  # of a piece of text, which has no prompt of its own


def problem_sequences(
    entry: ModelEntry, model, tokenizer, split: str, n_problems: int, seed: int
) -> tuple[list[Trace], dict[str, object]]:
    """Correct full-cache replies to generated problems of one split, and where they are from for a card.

    Raises:
        KvreproError: the model is no tiny reasoner, so it knows nothing of these problems; or no reply was right.
    """
    if not (Path(entry.source) / CARD_FILE).is_file():
        raise KvreproError(
            f"model {entry.name!r} was not trained on the generated problems (no {CARD_FILE} in its folder): give a "
            "plain text to run it on with --text FILE"
        )
    questions = tiny_questions(split, n_problems, PROBLEMS.sizes, seed, PROBLEMS.passes)
    with tempfile.TemporaryDirectory() as folder:
        replies, options = Path(folder) / "replies.jsonl", replace(PROBLEMS, seed=seed)
        generate_traces(model, tokenizer, questions, replies, options, entry.tags(tokenizer))
        traces, by_split = select_traces(read_rows(replies))
    counts = by_split[split]
    if not traces:
        raise KvreproError(f"none of {n_problems} replies of {entry.name!r} was right and finished: {counts}")
    return traces, {"split": split, "sizes": PROBLEMS.sizes, "passes": PROBLEMS.passes, **counts}


def text_sequences(tokenizer, path: Path, piece_tokens: int, split: str = "train") -> tuple[list[Trace], str]:
    """A plain text in pieces of `piece_tokens` ids, the last one shorter, each behind the tokenizer's first token.

    Args:
        split: `train` for the beginning of the text, `held_out` for its last tenth.

    Returns:
        The pieces as traces without an answer, and the SHA-256 of the file.

    Raises:
        KvreproError: the file is missing, no text, or its part is shorter than 16 tokens.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise KvreproError(f"--text {path}: cannot be read as UTF-8 text ({error})") from error
    ids = tokenizer.encode(text, add_special_tokens=False)
    border = len(ids) - int(HELD_OUT_SHARE * len(ids))
    part = ids[:border] if split == "train" else ids[border:]
    if len(part) < MIN_TOKENS:
        raise KvreproError(
            f"--text {path}: {len(part)} tokens for the part {split!r} are too few; give a text of some thousands"
        )
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    step = piece_tokens - len(first)
    pieces = [first + part[start : start + step] for start in range(0, len(part), step)]
    prompts = [max(1, int(PROMPT_SHARE * len(piece))) for piece in pieces]
    traces = [Trace(ids, n, len(ids), len(ids)) for ids, n in zip(pieces, prompts, strict=True)]
    return traces, hashlib.sha256(content).hexdigest()
