"""Scores of a cell from its graded records: pass@1, pass@k, maj@k, shares, tokens, and DynTS' own major vote.

A record is a mapping with the keys problem_id, sample_id, status, text, answer, gold, correct, n_prompt_tokens,
n_thinking_tokens and n_answer_tokens; new tokens are thinking + answer tokens. numpy only; intervals are in
`statistics`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import KvreproError
from .statistics import interval
from .values import check_count, check_values

Record = Mapping[str, Any]
Equivalence = Callable[[str, str], bool]

# states of a reply that ran into the token limit, before and after the end of its thought
LIMIT_STATUSES = ("truncated", "length_limit")


@dataclass(frozen=True)
class CellScore:
    """One cell's score. Shares and scores are fractions 0..1; `n_samples` is per problem.

    `answered_share` counts replies with an extracted answer, `truncated_share` those that hit the token limit.
    """

    n_problems: int
    n_samples: int
    pass_at_1: float
    pass_at_1_lo: float
    pass_at_1_hi: float
    answered_share: float
    truncated_share: float
    mean_new_tokens: float
    mean_thinking_tokens: float


def group_by_problem(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by problem, samples in the order of their id.

    Raises: KvreproError for no records, unscored ones, a sample that occurs twice, or unequal numbers of samples.
    """
    groups: dict[str, dict[Any, Record]] = {}
    unscored = 0
    for record in records:
        if not isinstance(record, Mapping):
            raise KvreproError(f"got {type(record).__name__} {record!r:.60}; expected records, one mapping per reply")
        missing = {"problem_id", "sample_id", "correct"} - set(record)
        if missing:
            raise KvreproError(f"a record lacks {sorted(missing)}; it has {sorted(record)}. Is this a records file?")
        samples = groups.setdefault(record["problem_id"], {})
        if record["sample_id"] in samples:
            raise KvreproError(
                f"problem {record['problem_id']!r} has sample {record['sample_id']!r} twice; were two runs merged?"
            )
        if not isinstance(record["correct"], bool | np.bool_):
            unscored += 1
        samples[record["sample_id"]] = record
    if not groups:
        raise KvreproError("no records given; a cell without replies has no score")
    if unscored:
        raise KvreproError(f"{unscored} records are not graded (`correct` is neither true nor false); grade them first")
    sizes = Counter(len(samples) for samples in groups.values())
    if len(sizes) > 1:
        raise KvreproError(
            f"problems have unequal numbers of samples: {dict(sizes)} (samples: problems). "
            "Finish the run, or select the samples that every problem has."
        )
    return {problem: [samples[key] for key in sorted(samples)] for problem, samples in groups.items()}


def _verdicts(groups: Mapping[str, list[Record]]) -> np.ndarray:
    """Verdicts as float [problems, samples]."""
    return np.array([[bool(record["correct"]) for record in samples] for samples in groups.values()], dtype=float)


def pass_at_values(n_samples: int, n_correct: Sequence[int], k: int) -> np.ndarray:
    """Per-problem unbiased pass@k: 1 - C(n - c, k) / C(n, k), as a product.

    Source: arXiv 2107.03374, section 2.1.
    """
    correct = check_values(n_correct, name="numbers of right samples")
    if correct.min() < 0 or correct.max() > n_samples or (correct % 1).any():
        raise KvreproError(f"numbers of right samples {list(n_correct)[:5]}; expected whole numbers up to {n_samples}")
    if check_count(k, f"pass@{k}: k") > n_samples:
        raise KvreproError(f"pass@{k} needs at least {k} samples per problem; there are {n_samples}")
    wrong = n_samples - correct
    factors = [np.clip((wrong - i) / (n_samples - i), 0.0, 1.0) for i in range(k)]
    return 1.0 - np.prod(factors, axis=0)


def answer_of(record: Record) -> str | None:
    """The extracted answer; None where there is none, which a data frame may have turned into NaN."""
    answer = record.get("answer")
    if answer is None or isinstance(answer, str):
        return answer
    if isinstance(answer, float) and np.isnan(answer):
        return None
    raise KvreproError(f"problem {record.get('problem_id')!r} has the answer {answer!r}; expected text or None")


def maj_value(samples: Sequence[Record], equivalent: Equivalence) -> float:
    """maj@k of one problem: is the largest class of answers right? Samples without an answer do not vote.

    Classes are made without looking at the gold. Each answer is compared with the first member of each class, in
    order, so that the outcome is defined although equivalence is not transitive in practice. A class is right if its
    first member is. Tie rule: among t tied classes of which r are right the credit is r / t, so neither order nor gold
    decides.
    """
    classes: list[list[Record]] = []
    for record in samples:
        answer = answer_of(record)
        if answer is None:
            continue
        same = (c for c in classes if c[0]["answer"] == answer or equivalent(c[0]["answer"], answer))
        if (mine := next(same, None)) is not None:
            mine.append(record)
        else:
            classes.append([record])
    largest = max(map(len, classes), default=0)
    tied = [bool(members[0]["correct"]) for members in classes if len(members) == largest]
    return sum(tied) / len(tied) if tied else 0.0


def metric_rows(records: Iterable[Record], equivalent: Equivalence) -> list[dict[str, Any]]:
    """pass@1, pass@m for m from 2 to k, maj@k and DynTS' major, each with n, k and its 95 % interval, as fractions.

    Args:
        equivalent: whether two answers say the same, of the benchmark's kind (`graders.grading.equivalence`).

    `dynts_major` is DynTS' "major@k", the share of problems whose most frequent *verdict* is right. It needs the gold
    and is a lower bound of maj@k; only for comparison with its tables.

    Source: Robin930/DynTS a55dc37, `eval.py`.
    Deviates: with an even number of samples a tie counts as wrong; DynTS takes whichever verdict came first.
    """
    groups = group_by_problem(records)
    matrix = _verdicts(groups)
    k = matrix.shape[1]
    values = {"pass@1": matrix.mean(axis=1)}
    values |= {f"pass@{m}": pass_at_values(k, matrix.sum(axis=1), m) for m in range(2, k + 1) if m in (2, 4, 8, 16, k)}
    values[f"maj@{k}"] = np.array([maj_value(samples, equivalent) for samples in groups.values()])
    values["dynts_major"] = (matrix.mean(axis=1) > 0.5).astype(float)
    scores = {name: interval(per_problem) for name, per_problem in values.items()}
    return [
        {"metric": name, "score": s.estimate, "lo": s.lo, "hi": s.hi, "n": s.n_problems, "k": k}
        for name, s in scores.items()
    ]


def mean_tokens(records: Sequence[Record], *keys: str) -> float:
    """Mean over replies of the sum of the named token counts."""
    counts = [[record.get(key) for key in keys] for record in records]
    # a count that a data frame lost is NaN
    absent = sum(any(count is None or count != count for count in row) for row in counts)
    if absent:
        raise KvreproError(f"{absent} of {len(records)} records lack a count in {keys}; they were not written by a run")
    return float(check_values([sum(row) for row in counts], name="token counts").mean())


def summarise(records: Iterable[Record]) -> CellScore:
    """A cell's score with its 95 % interval clustered by problem; a sample without an answer is wrong, never dropped.

    Raises: KvreproError for no records, ungraded records, or a cell whose problems differ in their number of samples.
    """
    rows = list(records)
    matrix = _verdicts(group_by_problem(rows))
    score = interval(matrix.mean(axis=1))
    return CellScore(
        n_problems=matrix.shape[0],
        n_samples=matrix.shape[1],
        pass_at_1=score.estimate,
        pass_at_1_lo=score.lo,
        pass_at_1_hi=score.hi,
        answered_share=float(np.mean([answer_of(row) is not None for row in rows])),
        truncated_share=float(np.mean([row.get("status") in LIMIT_STATUSES for row in rows])),
        mean_new_tokens=mean_tokens(rows, "n_thinking_tokens", "n_answer_tokens"),
        mean_thinking_tokens=mean_tokens(rows, "n_thinking_tokens"),
    )
