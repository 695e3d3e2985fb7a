"""Accuracy of the answer when only a part of the thought is kept: does the answer need what it attends to?

The whole trace is run once; before the think-end tag the cache is compacted to the question and the chosen thinking
tokens; then the tag is fed and the answer generated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor
from transformers import DynamicCache

from ..cache.attention import slot_attention
from ..cache.rotary import check_length
from ..cache.slots import CompressedCache, KeepPlan
from ..engine.decoders.choose import make_decoder
from ..engine.generate import end_token_ids
from ..engine.sampling import NOT_FINITE, where_finite
from ..errors import KvreproError, UnknownNameError
from ..graders import grade
from ..models.tokens import ThinkTags, reply_parts
from ..scores.statistics import interval
from ..training.importance.ranking import top_count
from ..training.traces import Trace

SELECTIONS = ("top", "random", "bottom")


@dataclass
class KeptThought:
    """One row of the experiment: a trace, how its thinking tokens were chosen, and what the model answered."""

    trace: Trace
    selection: str
    share: float
    n_kept: int
    answer: list[int] = field(default_factory=list)


def choose_tokens(scores: Tensor, share: float, selection: str, key: str = "") -> Tensor:
    """Indices of the kept thinking tokens, ascending; none at share 0, all at share 1.

    Args:
        scores: `[m]`, one per thinking token; `random` does not look at them.
        selection: `top`, `bottom` or `random`; ties go to the earlier token.
        key: of the random draw.

    Raises:
        UnknownNameError: no such selection.
        KvreproError: a share outside [0, 1], or scores that are not numbers.
    """
    if selection not in SELECTIONS:
        raise UnknownNameError("selection", selection, SELECTIONS)
    if not 0 <= share <= 1:
        raise KvreproError(f"share={share}: a part of the thought lies in [0, 1]")
    if not scores.isfinite().all():
        raise KvreproError(f"{int((~scores.isfinite()).sum())} of {len(scores)} scores are not finite")
    if selection == "random":
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
        scores = torch.rand(len(scores), generator=torch.Generator().manual_seed(seed))
    order = scores.sort(descending=selection != "bottom", stable=True).indices
    count = 0 if share == 0 else top_count(share, len(scores))
    return order[:count].sort().values


@torch.inference_mode()
def answers_from_parts(
    model, tokenizer, scored: Sequence[tuple[Trace, dict[str, Tensor]]], shares: Sequence[float], *,
    selections: Iterable[tuple[str, str]] = (("top", "label"), ("random", "label"), ("bottom", "label")),
    max_new_tokens: int = 256, batch_rows: int = 64, seed: int = 0, think: ThinkTags | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Answer every trace from every part of its thought, greedily, and grade the answers.

    Source: the idea of DynTS, arXiv 2601.18383; docs/predictor.md#observations.
    Deviates: greedy instead of sampled answers, so that rows differ by what is kept and by nothing else. Tokens were
    produced under the full cache; only the answer sees the compacted one.

    Args:
        scored: traces, each with named scores `[thinking tokens]`.
        shares: parts of the thought to keep, in [0, 1].
        selections: pairs of a selection and the name of the scores it looks at.
        batch_rows: rows answered together.
        think: the model's tags (`model_entry(...).tags(tokenizer)`); None takes `<think>` and `</think>`.

    Returns:
        Columns problem_id, scores, selection, share, n_kept, correct, status, text.
    """
    think, ends = think or ThinkTags.of(tokenizer), frozenset(end_token_ids(model, tokenizer))
    check_length(model.config, max((len(t.token_ids) for t, _ in scored), default=0) + max_new_tokens)
    selections = list(selections)
    per_trace = max(1, len(shares) * len(selections))
    group_size = max(1, batch_rows // per_trace)
    frames = []
    decoder = make_decoder(model)
    for start in range(0, len(scored), group_size):
        group = scored[start : start + group_size]
        longest = max(trace.thinking_to for trace, _ in group) + len(think.end) + max_new_tokens
        cache = CompressedCache(
            model.config, per_trace * len(group), longest, "shared", model.dtype, model.device
        )  # fmt: skip
        with slot_attention(model, cache):
            rows = [
                row for trace, scores in group for row in _admit(model, cache, trace, scores, shares, selections, seed)
            ]
            done = _answer(decoder, cache, rows, think.end, ends, max_new_tokens)
        frames.append(pd.DataFrame([_graded(row, name, think, tokenizer, ends) for row, name in done]))
    return pd.concat(frames, ignore_index=True)


def _admit(model, cache, trace, scores, shares, selections, seed) -> list[tuple[KeptThought, str]]:
    """Run a trace up to its think-end tag once and add one compacted row per part."""
    prefix = torch.tensor([trace.token_ids[: trace.thinking_to]], device=model.device)
    plain = DynamicCache()
    model(input_ids=prefix, past_key_values=plain, use_cache=True, logits_to_keep=1)
    keys = torch.stack([layer.keys[0] for layer in plain.layers])
    values = torch.stack([layer.values[0] for layer in plain.layers])
    rows = []
    for selection, name in selections:
        for share in shares:
            chosen = choose_tokens(scores[name].float().cpu(), share, selection, f"{seed}\x1f{trace.problem_id}")
            row = cache.admit(keys, values)
            slots = torch.cat([torch.arange(trace.thinking_from), trace.thinking_from + chosen])
            slots = slots.to(keys.device)[None, None, None]
            cache.compact(KeepPlan(torch.tensor([row], device=keys.device), slots))
            rows.append((KeptThought(trace, selection, share, len(chosen)), name))
    return rows


def _answer(decoder, cache, rows, tag, ends, max_new_tokens) -> list[tuple[KeptThought, str]]:
    """Feed the tag and decode greedily until every row has ended."""
    live, done = list(rows), []
    for token in tag:
        logits, _ = decoder.step(torch.full((len(live),), token, device=cache.kv.device), cache)
    for step in range(max_new_tokens):
        tokens = where_finite(logits, logits.argmax(-1)).tolist()
        if NOT_FINITE in tokens:
            raise KvreproError(
                f"the model's logits in {cache.kv.dtype} are not finite, so it answers nothing: load it in bfloat16 or "
                "float32"
            )
        for index in reversed(range(len(live))):
            live[index][0].answer.append(tokens[index])
            if tokens[index] in ends or step + 1 == max_new_tokens:
                done.append(live[index])
                # the last row moves into the gap, in the cache and here
                live[index] = live[cache.release(index)]
                live.pop()
        if not live:
            break
        newest = torch.tensor([row.answer[-1] for row, _ in live], device=cache.kv.device)
        logits, _ = decoder.step(newest, cache)
    return done


def _graded(row: KeptThought, name: str, think: ThinkTags, tokenizer, ends) -> dict[str, object]:
    text, answer_start = reply_parts(tokenizer, [*think.end, *row.answer], len(think.end), think)
    score = grade(text, row.trace.gold, row.trace.kind, answer_start=answer_start)
    return {
        "problem_id": row.trace.problem_id, "scores": name, "selection": row.selection, "share": row.share,
        "n_kept": row.n_kept, "correct": bool(score.correct), "status": score.status,
        "has_ended": row.answer[-1] in ends, "text": text,
    }  # fmt: skip


def accuracy_by_part(answers: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in percent with its 95 % interval per scores, selection and share; one answer per problem.

    `choice` names scores and selection together: `top` of the labels, `predicted top` of scores named `predicted`.
    """
    rows = []
    for (name, selection, share), part in answers.groupby(["scores", "selection", "share"]):
        found = interval(part.correct.astype(float).tolist())
        rows.append(
            {
                "choice": selection if name == "label" else f"{name} {selection}", "scores": name,
                "selection": selection, "share": share, "accuracy": 100 * found.estimate,
                "lo": 100 * found.lo, "hi": 100 * found.hi, "n_problems": found.n_problems,
                "mean_kept_tokens": part.n_kept.mean(),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
