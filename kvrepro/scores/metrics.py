"""Scores of a cell from its graded records: pass@1, pass@k, maj@k, shares, tokens, and DynTS' own numbers by name.

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

from kvrepro.checks import as_floats, check_count, check_values
from kvrepro.errors import KvreproError
from kvrepro.scores.statistics import interval

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


def correct_matrix(records: Iterable[Record]) -> np.ndarray:
    """Verdicts as float [problems, samples], problems in order of first occurrence."""
    groups = group_by_problem(records)
    return np.array([[bool(record["correct"]) for record in samples] for samples in groups.values()], dtype=float)


def problem_means(records: Iterable[Record]) -> dict[str, float]:
    """Problem id -> mean over its samples; what `statistics.paired_comparison` takes."""
    groups = group_by_problem(records)
    return {name: float(np.mean([bool(r["correct"]) for r in samples])) for name, samples in groups.items()}


def pass_at_1(records: Iterable[Record]) -> float:
    """Mean over problems of the mean over samples (avg@k). A sample without an answer is wrong, never dropped."""
    return float(correct_matrix(records).mean(axis=1).mean())


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


def pass_at(records: Iterable[Record], k: int) -> float:
    """Unbiased pass@k over all problems."""
    matrix = correct_matrix(records)
    return float(pass_at_values(matrix.shape[1], matrix.sum(axis=1), k).mean())


def same_text(first: str, second: str) -> bool:
    """The plainest equivalence of answers: equal after removing white space and case."""
    return "".join(first.split()).casefold() == "".join(second.split()).casefold()


def answer_of(record: Record) -> str | None:
    """The extracted answer; None where there is none, which a data frame may have turned into NaN."""
    answer = record.get("answer")
    if answer is None or isinstance(answer, str):
        return answer
    if isinstance(answer, float) and np.isnan(answer):
        return None
    raise KvreproError(f"problem {record.get('problem_id')!r} has the answer {answer!r}; expected text or None")


def answer_classes(samples: Sequence[Record], equivalent: Equivalence = same_text) -> list[list[Record]]:
    """Samples with an answer, grouped without looking at the gold.

    Each answer is compared with the first member of each class, in order, so that the outcome is defined although
    equivalence is not transitive in practice.
    """
    classes: list[list[Record]] = []
    for record in samples:
        answer = answer_of(record)
        if answer is None:
            continue
        for members in classes:
            if members[0]["answer"] == answer or equivalent(members[0]["answer"], answer):
                members.append(record)
                break
        else:
            classes.append([record])
    return classes


def maj_value(samples: Sequence[Record], equivalent: Equivalence = same_text) -> float:
    """maj@k of one problem: is the largest class of answers right?

    Tie rule: among t tied classes of which r are right the credit is r / t, so neither order nor gold decides. A
    class is right if its first member is. No answer at all is 0; samples without answer do not vote.
    """
    classes = answer_classes(samples, equivalent)
    if not classes:
        return 0.0
    top = max(len(members) for members in classes)
    tied = [members for members in classes if len(members) == top]
    return sum(bool(members[0]["correct"]) for members in tied) / len(tied)


def maj_values(
    records: Iterable[Record],
    k: int | None = None,
    equivalent: Equivalence = same_text,
    *,
    n_subsets: int = 100,
    seed: int = 0,
) -> dict[str, float]:
    """Problem id -> maj@k. For k below the number of samples: mean over `n_subsets` random subsets, fixed seed."""
    groups = group_by_problem(records)
    n_samples = len(next(iter(groups.values())))
    size = n_samples if k is None else k
    check_count(n_subsets, "n_subsets")
    if check_count(size, f"maj@{size}: k") > n_samples:
        raise KvreproError(f"maj@{size} needs at least {size} samples per problem; there are {n_samples}")
    if size == n_samples:
        return {name: maj_value(samples, equivalent) for name, samples in groups.items()}
    generator = np.random.default_rng(seed)
    values = {}
    for name, samples in groups.items():
        drawn = [sorted(generator.choice(n_samples, size, replace=False)) for _ in range(n_subsets)]
        values[name] = float(np.mean([maj_value([samples[i] for i in subset], equivalent) for subset in drawn]))
    return values


def maj_at(records: Iterable[Record], k: int | None = None, equivalent: Equivalence = same_text) -> float:
    """True majority vote over answer classes, mean over problems (cons@k)."""
    return float(np.mean(list(maj_values(list(records), k, equivalent).values())))


def dynts_major(records: Iterable[Record]) -> float:
    """DynTS' "major@k": the most frequent *verdict* is right. Needs the gold; a lower bound of `maj_at`.

    Source: Robin930/DynTS a55dc37, `eval.py`. Only for comparison with its tables.
    Deviates: with an even number of samples a tie counts as wrong; DynTS takes whichever verdict came first.
    """
    return float((correct_matrix(records).mean(axis=1) > 0.5).mean())


def metric_rows(records: Iterable[Record], equivalent: Equivalence = same_text) -> list[dict[str, Any]]:
    """pass@1, pass@m for m from 2 to k, maj@k and DynTS' major, each with n, k and its 95 % interval, as fractions."""
    groups = group_by_problem(list(records))
    matrix = np.array([[bool(record["correct"]) for record in samples] for samples in groups.values()], dtype=float)
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


def answered_share(records: Sequence[Record]) -> float:
    """Share of replies from which an answer was extracted."""
    return float(check_values([answer_of(record) is not None for record in records]).mean())


def truncated_share(records: Sequence[Record]) -> float:
    """Share of replies that hit the token limit, in the thought or after it."""
    return float(check_values([record.get("status") in LIMIT_STATUSES for record in records]).mean())


def mean_tokens(records: Sequence[Record], *keys: str) -> float:
    """Mean over replies of the sum of the named token counts."""
    counts = [[record.get(key) for key in keys] for record in records]
    # a count that a data frame lost is NaN
    absent = sum(any(count is None or count != count for count in row) for row in counts)
    if absent:
        raise KvreproError(f"{absent} of {len(records)} records lack a count in {keys}; they were not written by a run")
    return float(check_values([sum(row) for row in counts], name="token counts").mean())


def dynts_throughput(batch_steps: Sequence[int], batch_step_time_s: Sequence[float], batch_size: int) -> float:
    """DynTS' `throughput_avg`, tokens/s: per batch steps / sum of step times x batch size, mean over batches.

    Source: Robin930/DynTS a55dc37, `eval.py`. It counts finished rows as producing and leaves prefill, sampling and
    eviction out of the time; never compare it with a wall-clock rate.
    """
    steps, times = as_floats(batch_steps, "step counts"), check_times(batch_step_time_s)
    check_count(batch_size, "batch_size")
    if steps.shape != times.shape:
        raise KvreproError(f"{steps.size} step counts but {times.size} times; expected one of each per batch")
    return float((steps / times * batch_size).mean())


def dynts_latency(step_times_s: Sequence[float]) -> float:
    """DynTS' `latency`, seconds: the sum of all forward-pass times over all batches and devices (not wall clock)."""
    return float(check_times(step_times_s).sum())


def check_times(times_s: Sequence[float]) -> np.ndarray:
    """Seconds as an array; none, zero or unmeasured ones are errors."""
    times = as_floats(times_s, "times")
    if times.size == 0 or not (times > 0).all():
        raise KvreproError(f"got {times.size} times; expected at least one, all finite and above 0 seconds")
    return times


def summarise(records: Sequence[Record], confidence: float = 0.95) -> CellScore:
    """A cell's score with its interval clustered by problem.

    Raises: KvreproError for no records, ungraded records, or a cell whose problems differ in their number of samples.
    """
    rows = list(records)
    matrix = correct_matrix(rows)
    score = interval(matrix.mean(axis=1), confidence)
    return CellScore(
        n_problems=matrix.shape[0],
        n_samples=matrix.shape[1],
        pass_at_1=score.estimate,
        pass_at_1_lo=score.lo,
        pass_at_1_hi=score.hi,
        answered_share=answered_share(rows),
        truncated_share=truncated_share(rows),
        mean_new_tokens=mean_tokens(rows, "n_thinking_tokens", "n_answer_tokens"),
        mean_thinking_tokens=mean_tokens(rows, "n_thinking_tokens"),
    )
