"""Measurements and bounds in words."""

from __future__ import annotations

import pandas as pd

from kvrepro.bench import bounds, findings, measurements
from kvrepro.bench.head_cost import BreakEven, cost_sentences, saved_slots
from kvrepro.bench.settings import DYNTS

from .test_measurements import written

SETTING = {"rows": 2, "budget": 16, "new_tokens": 64, "variant": DYNTS, "tps": 291.4, "tps_lo": 273.0, "tps_hi": 324.0}
BARS = [
    {"bar": "window: K and V bytes as declared", "wanted": "all", "found": 12.0, "held": True},
    {"bar": "window: step time", "wanted": "within 10%", "found": 0.1311, "held": False},
]


def test_speed_stands_beside_every_baseline_that_was_measured(tmp_path):
    [found] = written(tmp_path, settings=[SETTING | {"ratio_to_generate": 24.67}, SETTING | {"budget": 8}])
    texts = findings.cpu_sentences(found, 2, 16, 64, weights=1000)
    speeds = [text for text in texts if "decodes" in text]
    assert speeds == [
        "kvrepro dynts (untrained head) decodes 291 tokens/s [273, 324] at batch 2, budget 16 and replies of 64 "
        "tokens: 24.7 times transformers.generate, full cache (a cpu, 1 thread, float32, processor time, 2026-11-22)."
    ]
    assert any("of what this machine's memory and products allow" in text for text in texts)


def test_a_missed_bar_is_named_and_nothing_is_said_of_none(tmp_path):
    [found] = written(tmp_path, bars=BARS)
    assert findings.cpu_sentences(found, 9, 16, 64, 1000) == [
        "1 of 2 bars were held; missed: window: step time (found 0.13, wanted within 10%)."
    ]
    [found] = written(tmp_path, bars=BARS[:1])
    assert findings.cpu_sentences(found, 9, 16, 64, 1000) == ["1 of 1 bars were held."]
    assert findings.cpu_sentences(None, 9, 16, 64, 1000) == ["No CPU has been measured."]


def test_paper_and_gpu_are_told_as_shares_of_the_bound():
    limit = pd.DataFrame({"model": "M", "budget_tokens": [100, 200], "bound_tps": [1000.0, 500.0]})
    paper = pd.DataFrame({"model": "M", "budget_tokens": [100, 200, 300], "decode_tps": [100.0, 150.0, 9.0]})
    nothing = pd.DataFrame(columns=["model", "budget_tokens", "rows", "decode_tps"])
    start = "M: memory allows 1,000 tokens/s at a budget of 100 and 500 at 200 (20 rows, computed); "
    assert findings.gpu_sentences(limit, paper, nothing) == [
        f"{start}the paper's figures show 10 to 30 % of it; no GPU has been measured."
    ]
    measured = pd.DataFrame({"model": "M", "budget_tokens": [100, 100], "rows": [20, 1], "decode_tps": [800.0, 1.0]})
    assert findings.gpu_sentences(limit, nothing, measured) == [f"{start}measured is 80 % of it."]


def test_sizes_of_the_paper_models_are_told():
    models = [bounds.ModelBytes("r1-llama-8b")]
    even, largest = bounds.head_break_even(models, [1, 20]), bounds.largest_batch(models, [2500, 5000])
    assert findings.size_sentences(even, largest) == [
        "R1-Llama: 190 rows fit into 80 GB at a budget of 2,500, 7.0 times as many as the 27 with the full cache at "
        "17,408 slots. At 20 rows 38 evicted slots per row pay for the head by bytes, 192 by operations."
    ]


def test_the_price_of_the_head_is_told_with_the_length_that_pays():
    costs = pd.DataFrame({"slots": [100, 200], "step_s": [0.001, 0.002], "head_s": 0.0005, "rows": 8})
    saved = saved_slots(3, 6, 4, 7)
    step, paid = cost_sentences(costs, BreakEven(1.0, 1.0, 1.0), saved)
    assert step == "With 200 slots in each of 8 rows a step takes 2.00 ms and the head 0.50 ms, 25 % of it."
    assert paid.endswith("the evictions have paid for it after 6 tokens.")
    assert cost_sentences(costs, BreakEven(100.0, 1.0, 1.0), saved)[1].endswith("have paid for it not in 7 tokens.")
    assert "no eviction pays" in cost_sentences(costs, BreakEven(None, 1.0, 1.0), saved)[1]


def test_settings_of_one_batch_and_budget_are_named_in_mib(tmp_path):
    row = SETTING | {"kv_bytes_peak": 2**21, "peak_rss_bytes": 2**30}
    [found] = written(tmp_path, settings=[row, row | {"budget": 8}, row | {"rows": 1}])
    [setting] = measurements.settings_of(found, 2, 16).to_dict("records")
    assert (setting["title"], setting["kv_mib"], setting["rss_mib"]) == ("kvrepro dynts (untrained head)", 2.0, 1024.0)
    assert measurements.settings_of(None, 2, 16).empty
