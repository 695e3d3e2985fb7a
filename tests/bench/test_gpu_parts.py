"""What the processes of `gpu-check` measure, run here in small: every row of every part, and what breaks one."""

from __future__ import annotations

import json
import time
import warnings

import pytest
import torch

from kvrepro.bench.gpu import decode, kernel_rows, logits, products, profiler, rates, real_run, replies, speed, warm
from kvrepro.bench.gpu.child import Task
from kvrepro.bench.gpu.plan import Settings
from kvrepro.bench.gpu.rows import Rows, TooLargeError
from kvrepro.bench.gpu.sizes import SMALL
from kvrepro.bench.gpu.speed import mean_ms
from kvrepro.cache.shape import CacheShape
from kvrepro.engine.decoders.graph import GraphDecoder
from kvrepro.errors import UnknownNameError
from kvrepro.models.shapes import build, true_shape, weight_bytes

LLAMA, QWEN = "r1-llama-8b", "r1-qwen-7b"


@pytest.fixture
def run(tmp_path):
    """Run a work as its process would; returns its tables."""

    def work(function, name="", known=None):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        path.touch()
        settings = Settings((LLAMA,), 2, "cpu", True)
        rows = Rows(path, time.time() + 1000, "cpu")
        function(Task(name, rows, settings, known or {}))
        found: dict[str, list] = {"errors": [], "skipped": []}
        for line in map(json.loads, path.read_text().splitlines()):
            if "row" in line:
                found.setdefault(line["table"], []).append(line["row"])
        return found

    return work


@pytest.mark.parametrize(("name", "gigabytes", "kib_per_slot"), [(LLAMA, 15.0, 128), (QWEN, 14.1, 56)])
def test_shapes_are_those_of_the_published_models(name, gigabytes, kib_per_slot):
    """The sizes that the bounds of the published shapes are derived from."""
    model = build(true_shape(name), "meta", "bfloat16")
    assert round(weight_bytes(model, of_a_step=True) / 1e9, 1) == gigabytes
    shape = CacheShape.of(model.config)
    assert 2 * 2 * shape.layers * shape.kv_heads * shape.head_dim == kib_per_slot * 1024
    assert shape.head_dim == 128
    assert SMALL.shape(name).model_type == true_shape(name).model_type


def test_an_unknown_shape_is_named():
    with pytest.raises(UnknownNameError, match="r1-llama-8b, r1-qwen-7b"):
        true_shape("llama")


def test_time_over_a_cycle_is_the_mean_over_its_lengths():
    assert mean_ms([10, 20, 40], [1.0, 2.0, 4.0]) == pytest.approx(2.5)
    assert mean_ms([10], [3.0]) == 3.0


def test_a_copy_and_several_readers_have_rates(run):
    found = run(rates.measure)
    assert found["errors"] == [] and [r["name"] for r in found["rates"]] == ["copy", *rates.READERS]
    for row in found["rates"]:
        assert min(row["samples"]) <= row["bytes_per_s"] <= max(row["samples"])
    # a copy reads and writes
    assert found["rates"][0]["bytes"] == 2 * found["rates"][1]["bytes"]


def test_logits_of_the_graph_step_are_those_of_the_fused_step(run, monkeypatch):
    found = run(logits.compare)
    assert found["errors"] == [] and len(found["correct"]) == len(logits.HEADS) * len(SMALL.logits_rows)
    for row in found["correct"]:
        assert row["ok"] and 0 < row["relative_difference"] <= row["limit"] and row["largest_logit"] > 1
        assert row["same_largest"] == 1.0 and row["launch_difference"] == 0.0 and row["captured"] is False
        own = row["model"].startswith("qwen3")
        assert (row["decoder"], row["against"]) == (("graph-module", "module") if own else ("graph", "fused"))
    assert set(found["correct"][-1]["worst_after"]) == {"prompts", "an eviction", "a row that left", "a row that came"}
    sound = GraphDecoder.step

    def off(self, tokens, cache, timer=None):
        found, hidden = sound(self, tokens, cache, timer)
        # wrong once rows have been evicted, and there alone
        return found + 1e-3 * (min(cache.lengths) < logits.KEPT + 3), hidden

    monkeypatch.setattr(GraphDecoder, "step", off)
    monkeypatch.setattr(logits, "HEADS", {"r1-llama": (8, 2)})
    wrong = run(logits.compare)["correct"][1]
    assert not wrong["ok"] and wrong["worst_after"]["prompts"] <= wrong["limit"] < wrong["worst_after"]["an eviction"]


def test_float32_products_that_are_rounded_are_wrong(run, monkeypatch):
    monkeypatch.setattr(logits, "HEADS", {"r1-llama": (8, 2)})
    monkeypatch.setattr(logits, "which_step", lambda *_: {"tf32": True})
    assert [row["ok"] for row in run(logits.compare)["correct"]] == [False] * len(SMALL.logits_rows)
    # what is timed is bfloat16, which it does not touch
    assert run(decode.decode, LLAMA)["correct"][0]["ok"]


@pytest.fixture
def few_methods(monkeypatch):
    monkeypatch.setattr(replies, "METHODS", {name: replies.METHODS[name] for name in ("full", "dynts", "h2o")})


@pytest.mark.model
def test_replies_and_cells_of_a_tiny_model_are_those_of_the_cpu(run, few_methods, monkeypatch):
    found = run(replies.compare, "tiny-r1-qwen")
    assert found["errors"] == [] and [r["kind"] for r in found["correct"]] == ["replies"] * 3 + ["cell"] * 2
    for row in found["correct"]:
        assert row["ok"] and row["equal_replies"] == row["equal_kept"] == row["of"] and row["decoder"] == "graph"
        assert (row["evictions"][0] > 0) == (row["method"] != "full") and len(set(row["evictions"])) == 1
    full = found["correct"][3]
    # two problems of two samples say nothing about the committed table, which is there all the same
    assert full["found"]["pass_at_1"] == 100 and full["committed"]["evictions"] == 0 and "same_as_committed" not in full


@pytest.mark.model
def test_a_reply_that_differs_is_wrong_and_says_where(run, monkeypatch):
    sound = replies._generated

    def changed(config, model, tokenizer, problems, decoder):
        engine, done = sound(config, model, tokenizer, problems, decoder)
        if decoder == "graph":
            next(iter(done.values())).token_ids[7] += 1
        return engine, done

    monkeypatch.setattr(replies, "_generated", changed)
    monkeypatch.setattr(replies, "METHODS", {"full": {}})
    row = run(replies.compare, "tiny-r1-qwen")["correct"][0]
    assert not row["ok"] and row["equal_replies"] == row["of"] - 1
    assert row["first_differences"] == [["chain-12-000", 7]]


def test_a_cell_is_compared_with_the_committed_table():
    committed = replies._committed("tiny-r1-qwen/chain-12/dynts-208/b8f9da27")
    assert committed == {"pass_at_1": 46.0, "mean_new_tokens": 247.555, "evictions": 571.0}
    assert replies._committed("tiny-r1-qwen/chain-12/dynts-208/00000000") is None


def check_budget_row(row):
    assert row["decode_tps"] > 0 and all(ms > 0 for ms in row["step_ms"])
    assert [len(samples) for samples in row["step_ms_samples"]] == [SMALL.repeats] * len(row["step_lengths"])
    assert row["period_steps"] > 0 and row["kept_tokens"] <= row["step_lengths"][0]
    assert 0 < row["eviction_share"] < 1 and len(row["eviction_ms_samples"]) == SMALL.repeats
    assert row["captured"] is (None if row["decoder"] == "fused" else False)


@pytest.mark.parametrize("name", [LLAMA, QWEN])
def test_budgets_and_their_kernels(run, name):
    found = run(decode.decode, name)
    assert found["errors"] == found["skipped"] == []
    [compared] = found["correct"]
    assert compared["ok"] and 0 < compared["relative_difference"] < compared["limit"] == 2e-2
    assert compared["against"] == "fused" and 0.8 < compared["same_largest"] <= 1
    assert set(compared["worst_after"]) == {"prompts", "an eviction", "a row that left", "a row that came"}
    assert [(r["method"], r["budget_tokens"]) for r in found["decode"]] == [("dynts", n) for n in SMALL.first]
    for row in found["decode"]:
        check_budget_row(row)
    for table in found["profile"]:
        assert sum(k["share"] for k in table["kernels"]) <= 1.0001 and table["replays"] == SMALL.replays
        products = [k for k in table["kernels"] if k["name"] == "aten::mm"]
        assert len(products) == 1 and products[0]["per_step"] >= 2 * 4 + 1


def test_a_profiler_that_sees_nothing_is_an_error(run, monkeypatch):
    monkeypatch.setattr(profiler.profile, "events", lambda self: [])
    found = run(decode.decode, LLAMA)
    assert (
        len(found["decode"]) == 2
        and [e["why"][:42] for e in found["errors"]] == ["RuntimeError: the profiler saw no kernels "] * 2
    )


def test_baselines_are_measured_at_the_mean_slots_of_the_budgets(run):
    found = run(decode.baselines, LLAMA)
    assert found["errors"] == [] and [r["method"] for r in found["decode"]] == ["full", *["eager", "generate"] * 2]
    # kept slots by hand: 40 + 0.3 * (61 - 40), 40 + 0.3 * (91 - 40)
    assert [r["step_lengths"] for r in found["decode"][1::2]] == [[round((46 + 61) / 2)], [round((55 + 91) / 2)]]
    assert found["decode"][0]["step_lengths"][-1] == SMALL.longest - SMALL.steps - SMALL.warm_up


@pytest.mark.filterwarnings("ignore:this method reads the attention of every step")
def test_further_rows(run):
    found = run(decode.others, f"{LLAMA} others")
    assert found["errors"] == found["skipped"] == []
    budgets = [r for r in found["decode"] if "budget_tokens" in r]
    assert [r["method"] for r in budgets] == [*SMALL.others, "dynts", "dynts"]
    assert [r.get("variant") for r in budgets] == [None] * 3 + ["eager step"]
    for row in budgets:
        check_budget_row(row)
    largest = run(decode.largest, f"{LLAMA} largest batch")["decode"]
    assert [(r["method"], r["rows"], r["variant"]) for r in largest] == [
        ("dynts", SMALL.most_rows, "largest batch"),
        ("full", SMALL.most_rows, "largest batch"),
    ]
    again = run(decode.decode_again, f"{LLAMA} KVREPRO_PDL=0")["decode"]
    assert [r["variant"] for r in again] == ["KVREPRO_PDL=0"] * len(SMALL.first)


def test_a_real_run_is_set_beside_what_its_stretches_promise(run):
    [row] = run(real_run.measure, f"{LLAMA} real run")["decode"]
    assert row["steps"] == row["of_steps"] == SMALL.real_steps - 1 - real_run.FIRST_STEPS
    assert row["evictions"] > 0 and row["variant"] == "real run" and sum(row["stage_s"].values()) > 0
    ratio = row["step_ms_measured"] / row["step_ms_predicted"]
    assert row["measured_over_predicted"] == pytest.approx(ratio)


def test_the_promise_for_a_real_run_by_hand():
    # one row, 1 ms a step at 10 slots and 2 ms at 20: 18, 19, then back to 10 with an eviction, 10, 11
    promised = real_run.promised_ms([18], 4, 10, 20, [10, 20], [1.0, 2.0], 5.0)
    assert promised == pytest.approx(1.8 + 1.9 + 5.0 + 1.0 + 1.1)
    # two rows: steps at their mean length, an eviction for each
    assert real_run.promised_ms([19, 9], 1, 10, 20, [10, 20], [1.0, 2.0], 5.0) == pytest.approx(1.4 + 5.0)


def test_what_will_be_timed_is_launched_once_before(run):
    for methods, count in (("dynts", 4), ("full", 1), ("others", len(SMALL.others))):
        found = run(warm.compile_kernels, f"{QWEN} {methods}")
        assert found["errors"] == [] and len(found["warm"]) == count


def test_kernels_are_checked_and_timed(run):
    checks = run(kernel_rows.check, "sample")["checks"]
    assert len(checks) == SMALL.cases and all(c["ok"] and c["stem"] == "sample" for c in checks)
    found = run(kernel_rows.time, known={"passed": ["sample", "append_kv"], "copy_bytes_per_s": 1e9})
    assert found["errors"] == [] and {r["provider"] for r in found["kernels"]} == {"triton", "torch"}
    assert {r["kernel"] for r in found["kernels"]} == {"sample"}
    for row in found["kernels"]:
        assert row["ms_p20"] <= row["ms_p50"] <= row["ms_p80"]
        assert row["fraction_of_copy"] == pytest.approx(row["gb_per_s"])
    assert "kernels" not in run(kernel_rows.time, known={"passed": [], "copy_bytes_per_s": None})


def test_products_that_came_before_a_failure_stand(run, monkeypatch):
    def some(name, rows, device, capture):
        assert (name, rows, device, capture) == (LLAMA, 2, "cpu", False)
        yield {"product": "qkv", "provider": "torch", "ms_p50": 1.0}
        raise RuntimeError("no library")

    monkeypatch.setattr(products, "product_rows", some)
    found = run(products.measure, LLAMA)
    assert [r["product"] for r in found["products"]] == ["qkv"]
    assert found["errors"][0]["why"] == "RuntimeError: no library" and found["errors"][0]["model"] == LLAMA


def test_whatever_becomes_of_a_row_is_written(tmp_path):
    rows = Rows(tmp_path / "rows.jsonl", time.time() + 1000, "cpu", start_at=1)

    class OutOfResourcesError(Exception):
        """As Triton's: no RuntimeError."""

    def raising(error):
        def work():
            warnings.warn("the capture failed", RuntimeWarning, stacklevel=1)
            raise error

        return work

    def warning():
        warnings.warn("launch by launch", RuntimeWarning, stacklevel=1)
        return {"value": 1}

    rows.add("decode", warning, name="done before")
    rows.add("decode", raising(OutOfResourcesError("shared memory")), name="broken")
    rows.add("decode", raising(torch.cuda.OutOfMemoryError("x")), name="large")
    rows.add("decode", raising(TooLargeError("3 rows do")), name="larger")
    rows.add("correct", raising(torch.cuda.OutOfMemoryError("x")), name="no room")
    rows.add("decode", warning, name="sound")
    rows.until = 0.0
    rows.add("decode", warning, name="late")
    lines = [json.loads(line) for line in rows.path.read_text().splitlines()]
    assert [line["begin"] for line in lines if "begin" in line] == [2, 3, 4, 5, 6, 7]
    found = {line["row"]["name"]: line for line in lines if "row" in line}
    assert "done before" not in found
    broken = found["broken"]["row"]
    assert found["broken"]["table"] == "errors" and broken["why"] == "OutOfResourcesError: shared memory"
    # what must be right may not be left out
    assert found["no room"]["table"] == "errors" and found["no room"]["row"]["table"] == "correct"
    assert broken["warnings"] == ["the capture failed"] and "in work" in broken["trace"]
    assert found["sound"]["row"]["warnings"] == ["launch by launch"] and found["sound"]["row"]["value"] == 1
    skipped = [line["row"]["why"].split(":")[0] for line in found.values() if line["table"] == "skipped"]
    assert skipped == ["out of memory", "out of memory", "out of time"]


@pytest.mark.parametrize("rows", [0, 5])
def test_a_batch_that_does_not_fit_says_what_does(rows, monkeypatch):
    monkeypatch.setattr(speed, "largest_batch", lambda model, capacity, most: 3)
    said = "5 rows of 90 slots do not fit.*; 3 do" if rows else "not even one row of 90 slots fits"
    with pytest.raises(TooLargeError, match=said):
        speed.engine_loop(None, None, rows, 90, SMALL)
