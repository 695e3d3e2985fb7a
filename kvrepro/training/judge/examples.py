"""What ForesightKV's judge would see at each eviction of a finished trace, and what it should have said."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...cache.attention import slot_attention
from ...cache.prefill import Prefill, prefill_prompt
from ...cache.probes import masked_attention, suffix_maxima
from ...cache.rotary import check_length
from ...errors import KvreproError
from ...methods.learned.judge import add_block, attention_features, judge_features
from ..traces import Trace


@dataclass(frozen=True)
class EvictionExample:
    """One eviction: the slots that compete (S of them, in order) and what becomes of them.

    Attributes:
        features: `[L, H, S, 2 D + 8 G]` float32, what the judge reads.
        future: `[L, H, S]` float32, the most attention that any block of queries to come pays to the slot.
        positions: `[L, H, S]` int64.
        n_dropped: slots that this eviction drops.
    """

    features: Tensor
    future: Tensor
    positions: Tensor
    n_dropped: int


@torch.no_grad()
def whole_prefill(model: PreTrainedModel, token_ids: list[int]) -> Prefill:
    """One pass over a whole trace with full attention; queries of all tokens are kept."""
    check_length(model.config, len(token_ids))
    with slot_attention(model):
        return prefill_prompt(model, token_ids, n_queries=len(token_ids), chunk=len(token_ids))


@torch.no_grad()
def eviction_examples(model: PreTrainedModel, sequence: Trace, budget: int, period: int) -> list[EvictionExample]:
    """Follow a trace under a budget whose evictions are those of the oracle.

    A row evicts at `budget + period` tokens and every `period` tokens from then on, as in the fair protocol. The
    oracle drops the slots with the least future attention; the newest `period` slots do not compete. Features are
    those of `ForesightKVMethod` over the slots that are still held.

    Args:
        budget: slots after an eviction, at least the prompt.
        period: queries of a block, and tokens between evictions.

    Returns:
        One example per eviction that has queries to come.

    Raises:
        KvreproError: the prompt exceeds the budget, or fewer slots compete than an eviction drops.

    Source: ForesightKV, arXiv 2602.03203, `supervised_training`; docs/predictor.md#eviction-judge (block mean over the
    query group and the block's queries, maximum over the blocks to come).
    Deviates: queries, keys and values are the full cache's, but the attention behind the features leaves out what the
    oracle has dropped, as it will at inference; the future attention is the full cache's.
    """
    if sequence.thinking_from > budget or budget < 2 * period:
        raise KvreproError(
            f"budget={budget}, period={period}: the budget must hold the prompt ({sequence.thinking_from} tokens), and "
            f"leave at least {period} slots beside the newest {period} to choose from"
        )
    first, n_tokens = budget + period, len(sequence.token_ids)
    if first >= n_tokens:
        return []
    trace = whole_prefill(model, sequence.token_ids)
    blocks = pairwise([*range(first, n_tokens, period), n_tokens])
    future = suffix_maxima(torch.stack([_attention(trace, a, b).mean((2, 3)) for a, b in blocks]))
    dropped = torch.zeros_like(future[0], dtype=torch.bool)
    # the prompt is one block of the sums; then blocks that end a whole number of periods before the first eviction
    prompt = _attention(trace, 0, sequence.thinking_from)
    running, decayed = add_block(*torch.zeros(2, *prompt.shape[:3], n_tokens, device=prompt.device), prompt)
    counted, examples = sequence.thinking_from, []
    for end in range(first - (first - sequence.thinking_from - 1) // period * period, n_tokens, period):
        start = max(0, end - period)
        mass = _attention(trace, start, end, dropped)
        fresh = torch.arange(start, end, device=mass.device) >= counted
        running, decayed = add_block(running, decayed, mass * fresh[:, None])
        counted = end
        if end < first:
            continue
        competing = ~dropped
        competing[..., end - period :] = False
        chosen = competing.nonzero()[:, -1].view(*competing.shape[:2], -1)
        features = judge_features(trace.keys, trace.values, attention_features(mass, running, decayed))
        features = features.gather(2, chosen[..., None].expand(-1, -1, -1, features.shape[-1]))
        to_come = future[len(examples)].gather(-1, chosen)
        examples.append(EvictionExample(features, to_come, chosen, period))
        lowest = to_come.sort(dim=-1, stable=True).indices[..., :period]
        dropped = dropped.scatter(-1, chosen.gather(-1, lowest), True)
    return examples


def _attention(trace: Prefill, start: int, end: int, dropped: Tensor | None = None) -> Tensor:
    """`[L, H, G, end - start, n]` of the queries `start ... end - 1`, without the slots `dropped` `[L, H, n]`."""
    queries = trace.queries.unflatten(1, (trace.keys.shape[1], -1))[:, :, :, start:end]
    scaling = torch.tensor(trace.scaling, device=queries.device).view(-1, 1, 1, 1, 1)
    slots = torch.arange(trace.keys.shape[2], device=queries.device)
    unseen = slots > slots[start:end, None]
    if dropped is not None:
        unseen = unseen | dropped[:, :, None, None]
    return masked_attention(queries, trace.keys, unseen, scaling)
