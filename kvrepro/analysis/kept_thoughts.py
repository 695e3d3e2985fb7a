"""Accuracy of the answer when only a part of the thought is kept: does the answer need what it attends to?

The whole trace is run once; before the think-end tag the cache is compacted to the question and the chosen thinking
tokens; then the tag is fed and the answer generated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product

import pandas as pd
import torch
from torch import Tensor

from ..cache.attention import slot_attention
from ..cache.prefill import prefill_prompt
from ..cache.rotary import check_length
from ..cache.slots import CompressedCache, KeepPlan
from ..engine.decoders.choose import make_decoder
from ..engine.generate import end_token_ids
from ..errors import KvreproError, check_known
from ..graders import grade
from ..kernels.reference.sampling import NOT_FINITE, where_finite
from ..models.tokens import ThinkTags, reply_parts
from ..scores.sentences import difference_sentence
from ..scores.statistics import holm, interval, paired_comparison
from ..training.importance.ranking import keyed_noise, top_count
from ..training.traces import Trace

SELECTIONS = ("top", "random", "bottom")


@dataclass
class KeptThought:
    """One row of the experiment: a trace, how its thinking tokens were chosen, and what the model answered."""

    trace: Trace
    scores: str
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
    check_known("selection", SELECTIONS, selection)
    if not 0 <= share <= 1:
        raise KvreproError(f"share={share}: a part of the thought lies in [0, 1]")
    if not scores.isfinite().all():
        raise KvreproError(f"{int((~scores.isfinite()).sum())} of {len(scores)} scores are not finite")
    if selection == "random":
        scores = keyed_noise(key, len(scores))
    order = scores.sort(descending=selection != "bottom", stable=True).indices
    count = 0 if share == 0 else top_count(share, len(scores))
    return order[:count].sort().values


@torch.inference_mode()
def answers_from_parts(
    model,
    tokenizer,
    scored: Iterable[tuple[Trace, dict[str, Tensor]]],
    shares: Sequence[float],
    *,
    selections: Sequence[tuple[str, str]] = (("top", "label"), ("random", "label"), ("bottom", "label")),
    max_new_tokens: int = 256,
    seed: int = 0,
    think: ThinkTags | None = None,
) -> pd.DataFrame:
    """Answer every trace from every part of its thought, greedily, and grade the answers.

    Source: the idea of DynTS, arXiv 2601.18383; docs/predictor.md#observations.
    Deviates: greedy instead of sampled answers, so that rows differ by what is kept and by nothing else. Tokens were
    produced under the full cache; only the answer sees the compacted one.

    Args:
        scored: traces, each with named scores `[thinking tokens]`.
        shares: parts of the thought to keep, in [0, 1].
        selections: pairs of a selection and the name of the scores it looks at.
        think: the model's tags (`model_entry(...).tags(tokenizer)`); None takes `<think>` and `</think>`.

    Returns:
        Columns problem_id, scores, selection, share, n_kept, correct, status, has_ended, text.
    """
    think, ends = think or ThinkTags.of(tokenizer), frozenset(end_token_ids(model, tokenizer))
    decoder, rows = make_decoder(model), []
    for trace, scores in scored:
        longest = trace.thinking_to + len(think.end) + max_new_tokens
        check_length(model.config, longest)
        n_rows = len(shares) * len(selections)
        cache = CompressedCache(model.config, n_rows, longest, "shared", model.dtype, model.device)
        with slot_attention(model, cache):
            parts = _admit(model, cache, trace, scores, shares, selections, seed)
            _answer(decoder, cache, parts, think.end, ends, max_new_tokens)
        rows += [_graded(part, think, tokenizer, ends) for part in parts]
    return pd.DataFrame(rows)


def _admit(model, cache, trace, scores, shares, selections, seed) -> list[KeptThought]:
    """Run a trace up to its think-end tag once and add one compacted row per part."""
    prefill = prefill_prompt(model, trace.token_ids[: trace.thinking_to], chunk=trace.thinking_to)
    device, parts = model.device, []
    for (selection, name), share in product(selections, shares):
        chosen = choose_tokens(scores[name].float().cpu(), share, selection, f"{seed}\x1f{trace.problem_id}")
        row = cache.admit(prefill.keys, prefill.values)
        slots = torch.cat([torch.arange(trace.thinking_from), trace.thinking_from + chosen]).to(device)
        cache.compact(KeepPlan(torch.tensor([row], device=device), slots[None, None, None]))
        parts.append(KeptThought(trace, name, selection, share, len(chosen)))
    return parts


def _answer(decoder, cache, parts: list[KeptThought], tag, ends, max_new_tokens: int) -> None:
    """Feed the tag and decode greedily until every row has ended."""
    live, device = list(parts), cache.kv.device
    for token in tag:
        logits, _ = decoder.step(torch.full((len(live),), token, device=device), cache)
    for step in range(max_new_tokens):
        tokens = where_finite(logits, logits.argmax(-1)).tolist()
        if NOT_FINITE in tokens:
            raise KvreproError(
                f"the model's logits in {cache.kv.dtype} are not finite, so it answers nothing: load it in bfloat16 or "
                "float32"
            )
        for index in reversed(range(len(live))):
            live[index].answer.append(tokens[index])
            if tokens[index] in ends or step + 1 == max_new_tokens:
                # the last row moves into the gap, in the cache and here
                live[index] = live[cache.release(index)]
                live.pop()
        if not live:
            break
        logits, _ = decoder.step(torch.tensor([part.answer[-1] for part in live], device=device), cache)


def _graded(part: KeptThought, think: ThinkTags, tokenizer, ends) -> dict[str, object]:
    text, answer_start = reply_parts(tokenizer, [*think.end, *part.answer], len(think.end), think)
    score = grade(text, part.trace.gold, part.trace.kind, answer_start=answer_start)
    chosen = {name: getattr(part, name) for name in ("scores", "selection", "share", "n_kept")}
    verdict = {"correct": bool(score.correct), "status": score.status, "has_ended": part.answer[-1] in ends}
    return {"problem_id": part.trace.problem_id, **chosen, **verdict, "text": text}


def accuracy_by_part(answers: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in percent with its 95 % interval per scores, selection and share; one answer per problem.

    `choice` names scores and selection together: `top` of the labels, `predicted top` of scores named `predicted`.
    """
    rows = []
    for (name, selection, share), part in answers.groupby(["scores", "selection", "share"]):
        score = interval(part.correct.astype(float).tolist())
        row = {"choice": _choice(name, selection), "scores": name, "selection": selection, "share": share}
        row |= {"accuracy": 100 * score.estimate, "lo": 100 * score.lo, "hi": 100 * score.hi}
        rows.append({**row, "n_problems": score.n_problems, "mean_kept_tokens": part.n_kept.mean()})
    return pd.DataFrame(rows)


def _choice(scores: str, selection: str) -> str:
    return selection if scores == "label" else f"{scores} {selection}"


def part_sentences(answers: pd.DataFrame, share: float) -> list[str]:
    """What is right from this part of the thought by its most attended tokens, and whether others do as well.

    Args:
        answers: of `answers_from_parts`.
        share: one that was answered from.
    """
    right = {
        _choice(*names): part.set_index("problem_id").correct.astype(float)
        for names, part in answers[answers.share == share].groupby(["scores", "selection"])
    }
    top, part = right.pop("top"), f"{100 * share:.0f} % of the thought"
    found = interval(top)
    first = (
        f"From the most attended {part} {100 * found.estimate:.1f} % [{100 * found.lo:.1f}, {100 * found.hi:.1f}] of "
        f"{found.n_problems} answers are right; with the whole thought all were when they were sampled."
    )
    if len(top) < 2 or not right:
        return [first]
    differences = {f"{name} {part}": paired_comparison(top, values) for name, values in right.items()}
    p_values = holm({name: difference.p_value for name, difference in differences.items()})
    return [first, *(difference_sentence(f"top {part}", n, d, p_values[n]) for n, d in differences.items())]
