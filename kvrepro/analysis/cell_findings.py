"""What one cell came to, in sentences, and its replies in the order in which a reader wants them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..scores.sentences import FEW_PROBLEMS

HEAD_CHARACTERS, TAIL_CHARACTERS = 900, 600


def score_sentence(manifest: Mapping[str, Any]) -> str:
    """Pass@1 of a finished cell with its interval, of what, and how many replies the limit cut."""
    config, score = manifest["config"], manifest["score"]
    points, lo, hi = (100 * score[f"pass_at_1{end}"] for end in ("", "_lo", "_hi"))
    n_problems, n_samples = score["n_problems"], score["n_samples"]
    n_replies = f"{n_problems} problems" + (f" x {n_samples} samples" if n_samples > 1 else "")
    few = ": too few to say more" if n_problems < FEW_PROBLEMS else ""
    return (
        f"{config['model']} with {_method(config)} solves {points:.1f} % [{lo:.1f}, {hi:.1f}] of {config['benchmark']} "
        f"({n_replies}{few}); {100 * score['truncated_share']:.1f} % of the replies were cut at "
        f"{config['max_new_tokens']:,} tokens."
    )


def _method(config: Mapping[str, Any]) -> str:
    if config["budget"] is None:
        return f"{config['method']} cache" if config["method"] == "full" else config["method"]
    return f"{config['method']} at a budget of {config['budget']:,} tokens"


def budget_sentence(manifest: Mapping[str, Any], limit: int) -> str:
    """The proof of a cell's budget: the most slots that a row held beside what was allowed, and the storage.

    Args:
        limit: the most slots that a row may hold (`ResolvedCell.peak_tokens`).
    """
    stats, peak = manifest["stats"], manifest["kv_tokens_peak"]
    verdict = "the budget was kept" if peak <= limit else "the budget was NOT kept"
    storage = f"{stats['batch_rows']} rows x {stats['capacity_tokens']:,} slots x {stats['bytes_per_slot']:,} bytes"
    return (
        f"No row ever held more than {peak:,} slots and {limit:,} were allowed: {verdict}. {manifest['evictions']:,} "
        f"evictions; K and V storage is {stats['kv_bytes'] / 2**20:,.1f} MiB ({storage})."
    )


def shown_replies(records: pd.DataFrame) -> pd.DataFrame:
    """The records with wrong ones first, otherwise in their order, and `new_tokens` beside."""
    lengths = records.n_thinking_tokens + records.n_answer_tokens
    return records.assign(new_tokens=lengths).sort_values("correct", kind="stable")


def reply_text(record: Mapping[str, Any]) -> str:
    """A reply as plain text under its question and its verdict; the middle of a long one is left out."""
    verdict = "RIGHT" if record["correct"] else "WRONG"
    answer = "none" if pd.isna(record["answer"]) else record["answer"]
    lines = [
        f"{verdict}: {record['problem_id']}, sample {record['sample_id']}",
        f"gold {record['gold']} | extracted {answer} | rule {record['rule']} | status {record['status']}",
    ]
    # records of earlier versions hold no question
    if isinstance(question := record.get("question"), str):
        lines.append(f"question: {_shortened(question)}")
    return "\n".join([*lines, "", _shortened(record["text"])])


def first_of_each_verdict(records: pd.DataFrame) -> list[str]:
    """`reply_text` of the first wrong reply and of the first right one, of those that there are."""
    firsts = shown_replies(records).drop_duplicates("correct")
    return [reply_text(record) for record in firsts.to_dict("records")]


def _shortened(text: str) -> str:
    left_out = len(text) - HEAD_CHARACTERS - TAIL_CHARACTERS
    if left_out <= 0:
        return text
    return f"{text[:HEAD_CHARACTERS]}\n[... {left_out:,} characters ...]\n{text[-TAIL_CHARACTERS:]}"
