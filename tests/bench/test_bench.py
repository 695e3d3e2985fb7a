"""`kvrepro bench`: the integral, the rows and the bars from written-down points, and one run in small."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
from transformers import LlamaConfig

from kvrepro.bench import bench, kvpress_environment, table
from kvrepro.bench.reply_time import Reply, reply_ms
from kvrepro.bench.settings import DYNTS, GENERATE, KVPRESS, OURS, REFERENCE, VARIANTS, WINDOW, BenchSettings
from kvrepro.cli import main
from kvrepro.commands import bench as command
from kvrepro.errors import KvreproError
from kvrepro.models.shapes import bench_shape

SMALL = BenchSettings(
    batches=(2,),
    budgets=(24,),
    prompt=8,
    new_tokens=48,
    evict_every=12,
    long_tokens=96,
    long_budget=24,
    long_batch=2,
    positions=(20, 40),
    rounds=2,
    steps=2,
    confirm_tokens=30,
    confirm_batch=2,
    confirm_budget=24,
)


def simulated(reply: Reply) -> tuple[list[int], int]:
    """Slots before each step and evictions, by walking through the steps."""
    n, lengths, evictions = reply.prompt, [], 0
    for _ in range(reply.new_tokens):
        lengths.append(n)
        n += 1
        if reply.budget is not None and n == reply.budget + reply.evict_every:
            n, evictions = reply.budget, evictions + 1
    return lengths, evictions


@pytest.mark.parametrize(
    "reply",
    [Reply(5, 40), Reply(5, 200, 20, 7), Reply(20, 50, 20, 1), Reply(5, 9, 20, 7), Reply(8, 39, 24, 12)],
    ids=str,
)
def test_a_reply_walks_the_lengths_that_a_row_really_has(reply):
    lengths, evictions = simulated(reply)
    assert reply.lengths().tolist() == lengths
    assert reply.evictions == evictions
    assert reply.peak_slots == max(lengths) + 1


def test_the_integral_of_a_straight_line_is_exact():
    reply = Reply(10, 100)
    assert reply_ms(reply, [10, 109], [3 + 0.5 * 10, 3 + 0.5 * 109]) == pytest.approx(
        sum(3 + 0.5 * n for n in range(10, 110))
    )
    compressed = Reply(10, 100, 30, 5)
    lengths, evictions = simulated(compressed)
    assert reply_ms(compressed, [0, 40], [1, 5], 7.0) == pytest.approx(
        sum(1 + 0.1 * n for n in lengths) + 7 * evictions
    )


def test_outside_of_what_was_measured_the_time_is_level():
    assert reply_ms(Reply(1, 3), [2], [4.0]) == 12.0


@pytest.mark.parametrize("sizes", [dict(prompt=0), dict(new_tokens=0), dict(prompt=30, budget=20)])
def test_a_reply_that_cannot_be_is_refused(sizes):
    with pytest.raises(KvreproError, match=next(iter(sizes))):
        Reply(**(dict(prompt=5, new_tokens=5) | sizes))


def points(plan=SMALL, slow=None):
    """Points as workers give them: a step of a variant takes a fixed time, `slow` changes some."""
    per_slot, found = 64, []
    for variant in VARIANTS:
        ms = {GENERATE: 9.0, REFERENCE: 8.0, KVPRESS: 6.0}.get(variant, 3.0)
        for request in plan.requests(variant, 2):
            slots = (24 + 12) if variant in OURS else request.get("length", 0) + plan.steps + plan.warm_up
            times = [0.0 if request["op"] == "eviction" else ms * (slow or {}).get(request.get("seen"), 1.0)] * 2
            found.append(
                {
                    "variant": variant,
                    **request,
                    "wall_ms": times,
                    "cpu_ms": times,
                    "peak_rss_bytes": 1000,
                    "kv_bytes": 2 * per_slot * slots,
                    "is_own_peak": True,
                }
            )
    return {"points": found, "confirm": [], "split": [], "workers": {}, "skipped": []}, per_slot


def test_rows_hold_speed_memory_and_ratios():
    data, per_slot = points()
    rows = table.setting_rows(table.Points(data, SMALL, "wall"), per_slot)
    assert {(r["new_tokens"], r["variant"]) for r in rows} == {(n, v) for n in (48, 12, 24, 96) for v in VARIANTS}
    row = next(r for r in rows if r["variant"] == WINDOW and r["new_tokens"] == 96)
    assert row["tps"] == pytest.approx(2 / 3e-3)
    assert [row[f"ratio_to_{b}"] for b in (GENERATE, REFERENCE, KVPRESS)] == pytest.approx([3, 8 / 3, 2])
    assert row["kv_bytes_peak"] == row["kv_bytes_declared"] == 2 * per_slot * 36
    full = next(r for r in rows if r["variant"] == GENERATE and r["new_tokens"] == 96)
    assert full["kv_bytes_peak"] == 2 * per_slot * (8 + 96)
    assert not [key for key in full if key.startswith("ratio_to")]


def test_bars_are_held_missed_or_open():
    data, per_slot = points(slow={40: 1.3})
    found = table.Points(data, SMALL, "wall")
    rows, flat = table.setting_rows(found, per_slot), table.flatness(found)
    assert flat[WINDOW]["spread"] == pytest.approx(0.3)
    held = {b["bar"]: b["held"] for b in table.bars(rows, flat, SMALL)}
    assert held["window: step time from 20 to 40 output tokens"] is False
    assert sum(h is True for h in held.values()) == 8
    data["points"] = [p for p in data["points"] if p["variant"] != KVPRESS]
    rows = table.setting_rows(table.Points(data, SMALL, "wall"), per_slot)
    held = {b["bar"]: b["held"] for b in table.bars(rows, flat, SMALL)}
    assert held["window: smallest ratio to kvpress of any setting"] is None


def test_the_final_line_names_settings_and_variants():
    data, per_slot = points()
    line = json.loads(json.dumps(table.final_line(table.setting_rows(table.Points(data, SMALL, "wall"), per_slot))))
    assert set(line) == {"tps", "peak_rss_bytes", "kv_bytes_peak", "ratios"}
    assert set(line["tps"]["B2-C24-n96"]) == set(VARIANTS)
    assert line["ratios"]["B2-C24-n48"][DYNTS][KVPRESS] == 2.0


def small_shape():
    return LlamaConfig(
        vocab_size=230,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )


def no_kvpress():
    return None, "kvpress could not be installed: ERROR: no network"


@pytest.mark.slow
def test_a_run_in_small_ends_in_one_json_line_and_names_what_is_missing(monkeypatch, capsys, tmp_path):
    run_bench = bench.run_bench

    def run_small(plan, config, *rest):
        return run_bench(SMALL, small_shape(), *rest, kvpress=no_kvpress)

    monkeypatch.setattr(command, "run_bench", run_small)
    monkeypatch.setattr(command, "_plan", lambda args: SMALL)
    monkeypatch.setattr("kvrepro.commands.bench.bench_shape", small_shape)
    arguments = ["bench", "--variants", WINDOW, DYNTS, KVPRESS, "--threads", "1"]
    assert main([*arguments, "--out", str(tmp_path / "people")]) == 0
    shown = capsys.readouterr().out
    assert "left out: variant kvpress, why kvpress could not be installed: ERROR: no network" in shown
    assert shown.splitlines()[-1].startswith(f"every measured point: {tmp_path}")
    assert main([*arguments, "--out", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) >= {"tps", "peak_rss_bytes", "kv_bytes_peak", "ratios", "bars", "confirm", "skipped", "file"}
    assert result["kv_bytes_peak"]["B2-C24-n48"][WINDOW] == 2 * 36 * (2 * 2 * 2 * 8 * 4)
    assert result["skipped"] == [{"variant": KVPRESS, "why": no_kvpress()[1]}]
    report = json.loads((tmp_path / result["file"]).read_text())
    assert set(report["split"][0]["parts"]) >= {"attention", "projections", "mlp", "head", "score", "sample", "host"}
    assert {c["variant"] for c in report["confirmed"]} == {WINDOW}
    assert all(len(p["wall_ms"]) == 2 for p in report["points"])


def test_out_of_time_is_said_and_whole_rounds_are_kept():
    class Asked:
        def __init__(self):
            self.answers = 0

        def ask(self, request):
            self.answers += 1
            return {"wall": 1.0, "cpu": 1.0, "kv_bytes": 1, "peak_rss_bytes": 1, "is_own_peak": True}

    data, _ = points()
    data["points"] = []
    measure = bench.Measure(SMALL, {WINDOW: Asked()}, data, 0.0, lambda text: None)
    measure.batch(2)
    assert data["points"] == []
    assert data["skipped"] == [{"batch": 2, "why": "out of time after 0 of 2 rounds"}]


def test_kvpress_that_cannot_be_installed_says_why(tmp_path, monkeypatch):
    class Done:
        def __init__(self, code):
            self.returncode, self.stdout = code, ""
            self.stderr = "WARNING: x\nERROR: No matching distribution found for kvpress\n"

    asked = []

    def run(command, **kwargs):
        asked.append(command)
        return Done("pip" in command)

    monkeypatch.setattr(kvpress_environment.subprocess, "run", run)
    python, why = kvpress_environment.ensure(tmp_path / "env", say=lambda text: None)
    assert python is None
    assert why == "kvpress could not be installed: ERROR: No matching distribution found for kvpress"
    assert any(part.startswith("torch==") for part in asked[1]), "torch is never left unpinned"
    assert not kvpress_environment.is_ready(tmp_path / "env")


def test_kvpress_environment_is_made_anew_when_the_pins_change(tmp_path):
    (tmp_path / kvpress_environment.READY).write_text("other pins\n")
    assert not kvpress_environment.is_ready(tmp_path)


def test_the_shape_is_the_one_that_the_bench_names():
    config = bench_shape()
    sizes = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.num_key_value_heads)
    assert sizes == (30, 576, 9, 3)


def test_arguments_change_the_plan_and_keep_its_settings_possible():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command._plan(parser.parse_args([])) == BenchSettings()
    plan = command._plan(parser.parse_args(["--rows", "1", "--budget", "1024", "--repeats", "2"]))
    assert (plan.batches, plan.long_batch, plan.long_budget, plan.confirm_budget) == ((1,), 1, 1024, 1024)
    assert plan.rounds == 2


def test_an_unknown_variant_lists_the_known_ones(capsys):
    assert main(["bench", "--variants", "vllm"]) == 2
    assert "known: dynts, dynts_torch, generate, kvpress, reference, window" in capsys.readouterr().err


def test_lengths_are_numbers_of_slots():
    assert Reply(8, 48, 24, 12).lengths().dtype == np.int64
