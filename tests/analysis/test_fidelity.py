"""Teacher-forced fidelity: zero where nothing is evicted, the long-hand KL where something is, oracles as bounds."""

from __future__ import annotations

import random

import pandas as pd
import pytest
import torch

from kvrepro.analysis.fidelity import KnownTrace, measure_fidelity, oracle_traces, summarise_fidelity
from kvrepro.analysis.fidelity_profile import fidelity_table, full_cell, measure_cells
from kvrepro.errors import KvreproError
from kvrepro.methods.table import create_method
from kvrepro.training.trace_attention import future_maxima

from ..method_cases import COMPRESSED, ORACLES, fair
from ..oracle import oracle_logits

BUDGET = 40


def make_trace(name: str, n_prompt: int, n_reply: int = 48, answer_from: int | None = 36) -> KnownTrace:
    ids = random.Random(name).choices(range(20, 200), k=n_prompt + n_reply)
    return KnownTrace(name, 0, tuple(ids[:n_prompt]), tuple(ids[n_prompt:]), answer_from)


TRACES = [make_trace("a", 9), make_trace("b", 17), make_trace("c", 12, 30, 20)]


def method_of(model, name: str, budget: int):
    options = fair(name)
    if name in ORACLES:
        options["traces"] = oracle_traces(model, name, TRACES)
    return create_method(name, budget, **options)


@pytest.mark.parametrize("name", ["window", "h2o", "rkv", "oracle_future"])
def test_a_budget_that_is_never_reached_differs_nowhere(random_model, name):
    frame = measure_fidelity(random_model, TRACES, method_of(random_model, name, 90))
    assert len(frame) == sum(len(t.reply_ids) for t in TRACES)
    assert frame.kl.max() < 1e-6
    assert frame.agrees.all()
    assert (frame.log_likelihood - frame.full_log_likelihood).abs().max() < 1e-4
    assert (frame.evictions == 0).all()


def test_kl_and_likelihood_are_those_of_a_run_that_hides_what_was_evicted(random_model):
    """Long-hand: window eviction by positions, logits from the masked full-cache run of the tests."""
    trace = TRACES[1]
    method = create_method("window", BUDGET, window=8, evict_every=6, protocol="fair")
    frame = measure_fidelity(random_model, [trace], method)
    ids, n = trace.token_ids, len(trace.token_ids)
    hidden = torch.zeros(2, 2, n, n, dtype=torch.bool)
    kept = list(range(len(trace.prompt_ids)))
    for position in range(len(trace.prompt_ids), n):
        kept.append(position)
        gone = sorted(set(range(position + 1)) - set(kept))
        hidden[:, :, position, gone] = True
        if len(kept) == BUDGET + 6:
            kept = kept[-BUDGET:]
    full = oracle_logits(random_model, ids, torch.zeros_like(hidden)).log_softmax(-1)
    mine = oracle_logits(random_model, ids, hidden).log_softmax(-1)
    first = len(trace.prompt_ids) - 1
    for step in range(len(trace.reply_ids)):
        p, q = full[first + step], mine[first + step]
        row = frame.iloc[step]
        assert row.kl == pytest.approx(float((p.exp() * (p - q)).sum()), abs=2e-5)
        assert row.log_likelihood == pytest.approx(float(q[ids[first + step + 1]]), abs=2e-4)
        assert row.agrees == float(p.argmax() == q.argmax())
    assert frame.kl.max() > 1e-3, "nothing was evicted, so the comparison says nothing"


@pytest.mark.parametrize("name", [*COMPRESSED, *ORACLES])
def test_every_method_can_be_measured_and_does_not_depend_on_the_batch(random_model, name):
    together = measure_fidelity(random_model, TRACES, method_of(random_model, name, BUDGET))
    assert together.kl.ge(0).all() and together.kl.max() > 0
    assert set(together[together.evictions > 0].problem_id) == {"a", "b"}, "c is too short to evict"
    alone = measure_fidelity(random_model, TRACES, method_of(random_model, name, BUDGET), batch_rows=1)
    pd.testing.assert_frame_equal(together, alone, atol=1e-4, rtol=1e-3)


def test_the_summary_counts_only_what_comes_after_the_first_eviction(random_model):
    frame = measure_fidelity(random_model, TRACES, method_of(random_model, "window", BUDGET))
    summary = summarise_fidelity(frame).set_index("problem_id")
    mine = frame[frame.problem_id == "a"]
    after = mine[mine.evictions > 0]
    assert summary.loc["a", "kl"] == pytest.approx(after.kl.mean())
    assert summary.loc["a", "compressed_steps"] == len(after) < len(mine)
    answer = mine[mine.step >= 36]
    expected = (answer.log_likelihood - answer.full_log_likelihood).sum()
    assert summary.loc["a", "answer_log_likelihood"] == pytest.approx(expected)


def test_future_maxima_are_the_suffix_maxima_of_naive_attention(random_model):
    ids, block = TRACES[0].token_ids, 8
    before = random_model.config._attn_implementation
    random_model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            attention = random_model(input_ids=torch.tensor([ids]), output_attentions=True).attentions
    finally:
        random_model.set_attn_implementation(before)
    found = future_maxima(random_model, ids, block)
    n = len(ids)
    for layer in range(2):
        for head in range(2):
            group = attention[layer][0, 3 * head : 3 * head + 3]
            means = [group[:, s : s + block].mean((0, 1)) for s in range(0, n, block)]
            for b in range(len(means)):
                expected = torch.stack(means[b:]).amax(0)
                torch.testing.assert_close(found[b, layer, head], expected, atol=1e-5, rtol=1e-4)


def test_bad_traces_are_named(random_model):
    method = method_of(random_model, "window", BUDGET)
    with pytest.raises(KvreproError, match="no traces"):
        measure_fidelity(random_model, [], method)
    with pytest.raises(KvreproError, match="'x', 0.* at least one prompt and one reply token"):
        measure_fidelity(random_model, [KnownTrace("x", 0, (1,), ())], method)
    with pytest.raises(KvreproError, match="share problem and sample"):
        measure_fidelity(random_model, [TRACES[0], TRACES[0]], method)
    with pytest.raises(KvreproError, match="'a'.* has no answer"):
        oracle_traces(random_model, "oracle_answer", [make_trace("a", 9, answer_from=None)])


def test_cells_are_measured_once_and_tabled_with_intervals(tmp_path, monkeypatch):
    import kvrepro.analysis.fidelity_profile as module
    from kvrepro import CellConfig

    sizes = {"window": 32, "evict_every": 32, "protocol": "fair", "n_problems": 3, "max_new_tokens": 330}
    cells = [
        CellConfig(model="tiny-r1-llama", benchmark="chain-12", method=m, budget=160, **sizes)
        for m in ("window", "oracle_future")
    ]
    frame = measure_cells(cells, tmp_path)
    table = fidelity_table(frame).set_index("method")
    assert table.loc["oracle_future", "kl"] < table.loc["window", "kl"]
    assert (table.kl_lo <= table.kl).all() and (table.kl <= table.kl_hi).all() and (table.kl_lo >= 0).all()
    monkeypatch.setattr(module, "_measured", lambda cells: pytest.fail("measured again"))
    pd.testing.assert_frame_equal(measure_cells(cells, tmp_path), frame)
    with pytest.raises(KvreproError, match="no compressed cell"):
        measure_cells([full_cell(cells[0])], tmp_path)


def test_a_shared_reference_changes_no_number(random_model):
    from kvrepro.analysis.fidelity import reference_hidden

    shared = {trace.key: reference_hidden(random_model, trace) for trace in TRACES}
    frames = [
        measure_fidelity(random_model, TRACES, method_of(random_model, "window", BUDGET), reference=reference)
        for reference in (None, shared)
    ]
    pd.testing.assert_frame_equal(*frames)


def test_a_reply_without_an_answer_part_has_no_answer_likelihood(random_model):
    trace = make_trace("mute", 9, answer_from=None)
    summary = summarise_fidelity(measure_fidelity(random_model, [trace], create_method("window", BUDGET)))
    assert summary.answer_log_likelihood.isna().all() and summary.answer_kl.isna().all()
    assert summary.kl.notna().all()
