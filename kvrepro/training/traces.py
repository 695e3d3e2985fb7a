"""Full-cache traces for the importance predictor: generated, kept only if they are right, resumable by sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..bars import progress_bar
from ..benchmarks.chains.language import NAMES
from ..benchmarks.chains.problems import MOST_PASSES
from ..engine.engine import Engine
from ..engine.generate import end_token_ids
from ..engine.requests import TRUNCATED, Completion, Request, SamplingConfig
from ..errors import KvreproError
from ..files import append_row, rows_so_far
from ..graders import grade
from ..methods.table import create_method
from ..models.tokens import ThinkTags, render_prompt, reply_parts
from .questions import HELD_OUT, TRAIN, Question

TRACES = "traces.jsonl"
KEPT = "kept"
LEAST_REPLY = 16  # tokens of a reply that is cut into thought and answer
# why a reply is no trace; the order of the counts in a manifest
SKIPPED = ("no_think_end", "answer_cut_off", "several_think_ends", "empty_answer", "wrong", "surplus")


@dataclass(frozen=True)
class TraceOptions:
    """Where questions come from and how replies are drawn.

    Attributes:
        problems: JSONL of problems; None for the tiny models' generated ones.
        n_train, n_held_out: questions of each split; None for all of the file's.
        sizes: variables of a generated problem, fewest and most.
        passes: of verification that a generated problem asks for, fewest and most; fewer where it would get too long.
        held_out_share: share of a file's problems that is held out.
        must_check: benchmarks that the leakage check must have read.
        n_samples: replies per question, of which the first correct one is taken.
        answer_share: for a model that does not think, whose replies have no answer part: this last share of a reply
            counts as its answer and what comes before it as the thought, whether the reply is right or not.
    """

    problems: str | None = None
    n_train: int | None = 500
    n_held_out: int | None = 200
    sizes: tuple[int, int] = (8, 22)
    passes: tuple[int, int] = (0, 0)
    held_out_share: float = 0.05
    must_check: tuple[str, ...] = ()
    n_samples: int = 1
    max_new_tokens: int = 1024
    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 20
    batch_rows: int = 64
    seed: int = 0
    answer_share: float | None = None

    def __post_init__(self) -> None:
        if self.answer_share is not None and not 0 < self.answer_share < 1:
            raise KvreproError(f"answer_share={self.answer_share}: a part of the reply, between 0 and 1")
        for name, least, most in (("sizes", 4, len(NAMES)), ("passes", 0, MOST_PASSES)):
            found = getattr(self, name)
            is_pair = len(found) == 2 and all(type(n) is int for n in found)
            if not is_pair or not least <= found[0] <= found[1] <= most:
                raise KvreproError(f"{name}={list(found)}: fewest and most, {least} to {most}")


@dataclass(frozen=True)
class Trace:
    """A correct reply: prompt and reply ids, and where its parts begin.

    Attributes:
        thinking_from: index of the first token of the thought.
        thinking_to: index of the think-end tag.
        answer_from: index of the first token after the tag.
    """

    token_ids: list[int]
    thinking_from: int
    thinking_to: int
    answer_from: int
    problem_id: str = ""
    split: str = TRAIN
    gold: str = ""
    kind: str = "integer"

    @property
    def is_sound(self) -> bool:
        """True if the parts lie in order and none is empty, but for the tag of a model that has none."""
        return 0 < self.thinking_from < self.thinking_to <= self.answer_from < len(self.token_ids)


def trace_outcome(completion: Completion, question: Question, think: ThinkTags, tokenizer) -> str:
    """`kept`, or why the reply is no trace.

    Source: DynTS, `compute_is_sp.py` (one think span, correct); docs/predictor.md#traces.
    """
    reply = completion.token_ids
    if not think.end:
        return KEPT if len(reply) >= LEAST_REPLY else "empty_answer"
    spans = sum(think.closes(reply[: i + 1]) > 0 for i in range(len(reply)))
    if spans == 0 or completion.status == TRUNCATED:
        return "no_think_end"
    if completion.status != "ok":
        return "answer_cut_off"
    if spans > 1:
        return "several_think_ends"
    answer = tokenizer.decode(reply[completion.n_thinking_tokens :], skip_special_tokens=True)
    if not answer.strip() or completion.n_thinking_tokens <= len(think.end):
        return "empty_answer"
    text, answer_start = reply_parts(tokenizer, reply, completion.n_closed, think)
    score = grade(text, question.gold, question.kind, answer_start=answer_start)
    return KEPT if score.correct else "wrong"


def generate_traces(
    model, tokenizer, questions: list[Question], path: Path, options: TraceOptions, think: ThinkTags
) -> None:
    """Append one row per reply to `path`; replies that it already holds are not generated again.

    Noise is keyed by (seed, problem, sample), so a resumed run draws what an uninterrupted one would have drawn.

    Args:
        think: the tags of the model's thought.

    Raises:
        KvreproError: a model that does not think and no `answer_share` to cut its replies by.
    """
    if not think.end and options.answer_share is None:
        raise KvreproError(
            "the model does not think, so its replies have no answer part: say which last share of a reply counts as "
            "its answer, for example traces.answer_share=0.25"
        )
    done = {(row["problem_id"], row["sample_id"]) for row in rows_so_far(path)}
    by_id = {q.problem_id: q for q in questions}
    requests = [
        Request(q.problem_id, s, tuple(render_prompt(tokenizer, q.text, think)))
        for q in questions
        for s in range(options.n_samples)
        if (q.problem_id, s) not in done
    ]
    engine = Engine(
        model,
        create_method("full"),
        think,
        end_token_ids(model, tokenizer),
        sampling=SamplingConfig(options.temperature, options.top_p, options.top_k),
        batch_rows=options.batch_rows,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
    )
    for completion in progress_bar(engine.run(requests), total=len(requests), desc="traces"):
        question = by_id[completion.request.problem_id]
        outcome = trace_outcome(completion, question, think, tokenizer)
        append_row(path, _row(completion, question, outcome, think, options.answer_share))


def _row(
    completion: Completion, question: Question, outcome: str, think: ThinkTags, answer_share: float | None
) -> dict[str, Any]:
    prompt, reply = completion.request.prompt_ids, completion.token_ids
    n_thinking = completion.n_thinking_tokens
    if not think.end:
        n_thinking = len(reply) - max(1, round(answer_share * len(reply)))
    answer_from, kept = len(prompt) + n_thinking, outcome == KEPT
    return {
        "problem_id": question.problem_id,
        "sample_id": completion.request.sample_id,
        "split": question.split,
        "outcome": outcome,
        "gold": question.gold,
        "kind": question.kind,
        "token_ids": [*prompt, *reply] if kept else [],
        "thinking_from": len(prompt),
        "thinking_to": answer_from - len(think.end) if kept else 0,
        "answer_from": answer_from if kept else 0,
        "n_new_tokens": len(reply),
    }


def select_traces(rows: Iterable[dict[str, Any]]) -> tuple[list[Trace], dict[str, dict[str, int]]]:
    """The first correct reply per problem, ordered by problem, and per split what became of every reply.

    Returns:
        Traces, and split -> counts with `generated`, `kept` and the reasons of `SKIPPED`.
    """
    outcomes: list[tuple[str, str]] = []
    traces: dict[str, Trace] = {}
    for row in sorted(rows, key=lambda r: (r["problem_id"], r["sample_id"])):
        outcome = row["outcome"]
        if outcome == KEPT and row["problem_id"] in traces:
            outcome = "surplus"
        outcomes.append((row["split"], outcome))
        if outcome == KEPT:
            traces[row["problem_id"]] = trace_of(row)
    return list(traces.values()), outcome_counts("generated", (KEPT, *SKIPPED), outcomes)


def outcome_counts(total: str, names: Sequence[str], outcomes: Sequence[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Per split how many `(split, outcome)` there are, under `total`, and of them each of the outcomes `names`."""
    found = Counter(outcomes)
    return {
        split: {total: sum(s == split for s, _ in outcomes), **{name: found[split, name] for name in names}}
        for split in (TRAIN, HELD_OUT)
    }


def trace_of(row: Mapping[str, Any]) -> Trace:
    """The trace in a row of a trace file or of a labelled dataset."""
    return Trace(**{f.name: row[f.name] for f in fields(Trace)})


def options_identity(options: TraceOptions) -> dict[str, Any]:
    """The options that change a trace; batch size and file name do not."""
    values = {k: v for k, v in asdict(options).items() if k not in ("batch_rows", "problems", "must_check")}
    # folders made before there were these settings keep their names
    unset = {"answer_share": None, "passes": (0, 0)}
    return {name: value for name, value in values.items() if name not in unset or value != unset[name]}
