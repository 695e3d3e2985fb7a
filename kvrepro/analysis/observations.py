"""The observation behind DynTS: how the answer's attention is spread over the tokens before it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..errors import KvreproError
from ..methods.learned.importance import load_predictor_for
from ..models.tokens import ThinkTags
from ..scores.sentences import FEW_PROBLEMS
from ..training.dataset import Example, LabelledTraces
from ..training.importance.ranking import bootstrap, top_count
from ..training.trace_attention import label_sequence
from ..training.traces import Trace


def part_names(think: ThinkTags) -> tuple[str, str]:
    """What the tokens before the answer, and their part of the reply, are called: a model may not think."""
    return ("thinking tokens", "thought") if think.end else ("tokens before the answer", "reply before the answer")


def sorted_share_curve(examples: Sequence[Example], shares: Sequence[float] | None = None) -> pd.DataFrame:
    """Share of the thought's attention that its most attended tokens carry, mean over traces with 95 % intervals.

    Source: DynTS, arXiv 2601.18383 (heavy tail of the answer's attention).

    Args:
        examples: traces with all thinking tokens cached; labels raw.
        shares: parts of the thought, in (0, 1].

    Returns:
        Columns share, mass_mean, mass_lo, mass_hi (fractions), n_traces.
    """
    shares = np.arange(2, 101, 2) / 100 if shares is None else shares
    cumulative = [e.labels.double().sort(descending=True).values.cumsum(0) for e in examples]
    rows = []
    for share in shares:
        values = [float(c[top_count(share, len(c)) - 1] / c[-1].clamp(min=1e-30)) for c in cumulative]
        rows.append({"share": share, **bootstrap(values)})
    return pd.DataFrame(rows).rename(columns={name: f"mass_{name}" for name in ("mean", "lo", "hi")})


def share_sentence(curve: pd.DataFrame, share: float, tokens: str = "thinking tokens") -> str:
    """How much of the answer's attention the most attended part carries.

    Args:
        curve: of `sorted_share_curve`.
        share: one of its shares.
        tokens: what the part is of.
    """
    [row] = curve[np.isclose(curve.share, share)].itertuples()
    mean, lo, hi = (100 * value for value in (row.mass_mean, row.mass_lo, row.mass_hi))
    few = "" if row.n_traces >= FEW_PROBLEMS else "; so few say little"
    return (
        f"The most attended {100 * share:.0f} % of the {tokens} carry {mean:.1f} % [{lo:.1f}, {hi:.1f}] of the "
        f"answer's attention to them, {mean / (100 * share):.1f} times their share ({row.n_traces} traces{few})."
    )


def attention_by_part(data: LabelledTraces, split: str) -> pd.DataFrame:
    """Where the answer looks: percent of its attention on question, thought, tag and answer, and percent per token.

    The diagonal is zeroed in a label, so `answer` is what is left of 100 without a token's attention to itself.
    """
    parts: dict[str, list[tuple[float, int]]] = {"question": [], "thought": [], "think-end tag": [], "answer": []}
    for row in data.rows[split]:
        labels, cuts = torch.tensor(row["labels"]), (0, row["thinking_from"], row["thinking_to"], row["answer_from"])
        for name, start, stop in zip(parts, cuts, (*cuts[1:], len(labels)), strict=True):
            parts[name].append((100 * float(labels[start:stop].sum()), stop - start))
    rows = [{"part": name, **bootstrap([mass for mass, _ in values])} for name, values in parts.items()]
    frame = pd.DataFrame(rows).rename(columns={"mean": "attention_percent"}).drop(columns="n_traces")
    tokens = [np.mean([n for _, n in values]) for values in parts.values()]
    frame = frame.assign(tokens_mean=tokens, percent_per_token=frame.attention_percent / np.maximum(tokens, 1))
    # a model that does not think has no tag
    return frame[frame.tokens_mean > 0].reset_index(drop=True)


def head_shares(model, traces: Sequence[Trace]) -> Tensor:
    """`[L, Hq]`: part of every head's answer attention that lies on the thought, mean over traces."""
    total = 0
    for trace in traces:
        found = label_sequence(model, trace.token_ids, trace.answer_from, keep_heads=True).head_labels
        total = total + found[..., trace.thinking_from : trace.thinking_to].sum(-1)
    return total / len(traces)


def predicted_importance(model, head, token_ids: list[int]) -> Tensor:
    """`[n]` float32: the head's score of every token of a whole sequence under the full cache.

    While decoding with evictions a score is computed once, from a cache that may have lost tokens by then, so it may
    differ from these.
    """
    hidden = label_sequence(model, token_ids, len(token_ids) - 1).hidden  # its labels are of no use here
    with torch.inference_mode():
        return head(hidden.to(next(head.parameters()).dtype)).float().cpu()


def part_scores(model, row: dict) -> dict[str, Tensor]:
    """Scores of a labelled row's thinking tokens: `label`, and `predicted` where the model has a head of its own."""
    thinking = slice(row["thinking_from"], row["thinking_to"])
    scores = {"label": torch.tensor(row["labels"])[thinking]}
    try:
        head = load_predictor_for(model)
    except KvreproError:
        return scores
    return {**scores, "predicted": predicted_importance(model, head, row["token_ids"])[thinking]}
