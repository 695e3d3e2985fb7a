"""How far a compressed cache bends the model: teacher-forced over a known text, without sampling noise.

The trace of the full cache is fed token by token while the method evicts under its budget; at every position the
next-token distribution is compared with that of the full cache. Works on any decoder and any text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..engine.batch import Row
from ..engine.engine import Engine
from ..engine.observer import Observer
from ..engine.requests import NAN_LOGITS, OK, Completion, Request, SamplingConfig
from ..errors import KvreproError
from ..methods.base import EvictionMethod
from ..models.tokens import ThinkTags
from ..training.trace_attention import future_maxima, label_sequence

Key = tuple[str, int]  # problem and sample
MEASURES = ("kl", "agrees", "answer_kl", "answer_log_likelihood")  # per trace


@dataclass(frozen=True)
class KnownTrace:
    """A text to follow. `answer_from`: index in `reply_ids` of the first answer token, None where there is none."""

    problem_id: str
    sample_id: int
    prompt_ids: tuple[int, ...]
    reply_ids: tuple[int, ...]
    answer_from: int | None = None

    @classmethod
    def of(cls, reply: Completion, problem_id: str | None = None, *, thinks: bool = True) -> KnownTrace | None:
        """A reply, by its problem or another id; None if it thinks and did not end by itself with an answer."""
        if thinks and not (reply.status == OK and 0 < reply.n_thinking_tokens < len(reply.token_ids)):
            return None
        request, answer_from = reply.request, reply.n_thinking_tokens if thinks else None
        key = problem_id or request.problem_id, request.sample_id
        return cls(*key, tuple(request.prompt_ids), tuple(reply.token_ids), answer_from)

    @property
    def key(self) -> Key:
        """What an oracle finds its attention by."""
        return self.problem_id, self.sample_id

    @property
    def token_ids(self) -> list[int]:
        """Prompt and reply."""
        return [*self.prompt_ids, *self.reply_ids]


class FidelityRecorder(Observer):
    """Collects, per row and position, how the next-token distribution differs from the full cache's.

    `hidden`: what `reference_hidden` gives for each trace, by key.
    """

    def __init__(self, model: PreTrainedModel, hidden: Mapping[Key, Tensor]):
        self.head, self.hidden = model.get_output_embeddings(), hidden
        self.rows: list[tuple[str, int, int, int, int]] = []
        self.values: list[Tensor] = []

    def logits(self, rows: list[Row], logits: Tensor) -> None:
        """`[B, V]` of the live rows, before their next token is taken."""
        requests = [row.completion.request for row in rows]
        keys = [(r.problem_id, r.sample_id) for r in requests]
        steps = [len(row.completion.token_ids) for row in rows]
        hidden = torch.stack([self.hidden[key][step] for key, step in zip(keys, steps, strict=True)])
        target = torch.tensor([r.forced_ids[step] for r, step in zip(requests, steps, strict=True)])
        full = self.head(hidden).float().log_softmax(-1)
        mine = logits.float().log_softmax(-1)
        kl = (full.exp() * (full - mine)).sum(-1).clamp(min=0)  # rounding takes equal ones below 0
        agrees = (full.argmax(-1) == mine.argmax(-1)).float()
        likelihoods = [t.gather(-1, target[:, None].to(t.device))[:, 0] for t in (mine, full)]
        self.values.append(torch.stack([kl, agrees, *likelihoods], dim=-1).cpu())
        for key, step, request, row in zip(keys, steps, requests, rows, strict=True):
            self.rows.append((*key, step, len(request.prompt_ids) + step, row.completion.evictions))

    def frame(self, traces: Sequence[KnownTrace]) -> pd.DataFrame:
        """One row per trace and reply position."""
        answers = {t.key: len(t.reply_ids) if t.answer_from is None else t.answer_from for t in traces}
        frame = pd.DataFrame(self.rows, columns=["problem_id", "sample_id", "step", "position", "evictions"])
        frame[["kl", "agrees", "log_likelihood", "full_log_likelihood"]] = torch.cat(self.values).numpy()
        frame["is_answer"] = [step >= answers[problem, sample] for problem, sample, step, *_ in self.rows]
        return frame.sort_values(["problem_id", "sample_id", "step"], ignore_index=True)


@torch.inference_mode()
def reference_hidden(model: PreTrainedModel, trace: KnownTrace) -> Tensor:
    """Last hidden states `[T, hidden]` of the full cache at the positions that predict the reply, in one pass."""
    caught: list[Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, args: caught.append(args[0][0]))
    try:
        model(input_ids=torch.tensor([trace.token_ids], device=model.device), use_cache=False)
    finally:
        hook.remove()
    first = len(trace.prompt_ids) - 1
    return caught[0][first:-1]


def measure_fidelity(
    model: PreTrainedModel,
    traces: Sequence[KnownTrace],
    method: EvictionMethod,
    *,
    think: ThinkTags | None = None,
    batch_rows: int = 32,
    seed: int = 0,
    reference: Mapping[Key, Tensor] | None = None,
) -> pd.DataFrame:
    """Follow known traces under a method's budget and compare with the full cache at every position.

    Args:
        think: the tag that ends the thought, for methods that pin the answer; None where the text has no thought.
        reference: `reference_hidden` of every trace by key, where several methods follow the same traces; None
            computes it here.

    Returns:
        Columns problem_id, sample_id, step (index in the reply), position, evictions (of the row so far), kl (nats,
        full against method), agrees (same most likely token), log_likelihood and full_log_likelihood (of the trace's
        own token), is_answer.

    Raises:
        KvreproError: a trace without prompt or reply, a prompt that the budget cannot serve, or logits that are not
            finite.
    """
    for trace in traces:
        if not trace.prompt_ids or not trace.reply_ids:
            raise KvreproError(f"trace {trace.key}: needs at least one prompt and one reply token")
    if not traces:
        raise KvreproError("no traces were given; fidelity compares along known text")
    if len({trace.key for trace in traces}) < len(traces):
        raise KvreproError("two traces share problem and sample; give each a key of its own")
    recorder = FidelityRecorder(model, reference or {trace.key: reference_hidden(model, trace) for trace in traces})
    engine = Engine(
        model,
        method,
        think or ThinkTags(end=(-1,)),
        (),
        sampling=SamplingConfig(temperature=0.0),
        batch_rows=min(batch_rows, len(traces)),
        max_new_tokens=max(len(t.reply_ids) for t in traces),
        seed=seed,
        observer=recorder,
    )
    requests = [Request(t.problem_id, t.sample_id, t.prompt_ids, t.reply_ids) for t in traces]
    broken = [c.request.problem_id for c in engine.run(requests) if c.status == NAN_LOGITS]
    if broken:
        raise KvreproError(
            f"the logits along {len(broken)} of {len(traces)} traces ({', '.join(broken[:3])}) are not finite in "
            f"{model.dtype}: there is nothing to compare; load the model in bfloat16 or float32"
        )
    return recorder.frame(traces)


def oracle_traces(model: PreTrainedModel, name: str, traces: Sequence[KnownTrace], block: int = 16) -> dict:
    """What an oracle reads of every trace, by (problem, sample): its labels (`oracle_answer`) or future attention.

    Raises:
        KvreproError: `oracle_answer` on a trace that has no answer.
    """
    if name == "oracle_future":
        return {trace.key: future_maxima(model, trace.token_ids, block) for trace in traces}
    for trace in traces:
        if trace.answer_from is None or trace.answer_from >= len(trace.reply_ids):
            raise KvreproError(f"trace {trace.key} has no answer, so {name} has no attention from it; leave it out")
    return {t.key: label_sequence(model, t.token_ids, len(t.prompt_ids) + t.answer_from).labels for t in traces}


def summarise_fidelity(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per trace: means over the positions that come after its first eviction.

    Columns: problem_id, sample_id, kl, agrees, answer_kl, answer_log_likelihood (sum over the answer's tokens, minus
    the full cache's), compressed_steps. A trace that never evicted has kl 0 and agrees 1 by definition.
    """
    rows = []
    for (problem_id, sample_id), trace in frame.groupby(["problem_id", "sample_id"], sort=False):
        after, answer = trace[trace.evictions > 0], trace[trace.is_answer]
        kl, agrees = (after.kl.mean(), after.agrees.mean()) if len(after) else (0.0, 1.0)
        # without an answer part there is nothing to sum, which is not 0
        likelihood = (answer.log_likelihood - answer.full_log_likelihood).sum(min_count=1)
        rows.append((problem_id, sample_id, kl, agrees, answer.kl.mean(), likelihood, len(after)))
    return pd.DataFrame(rows, columns=["problem_id", "sample_id", *MEASURES, "compressed_steps"])
