"""Files of `kvrepro bench` and `gpu-check` as frames, and the bounds beside them."""

from __future__ import annotations

import json
from dataclasses import asdict

import pandas as pd
import pytest

from kvrepro.bench import bounds, measurements
from kvrepro.bench.settings import DYNTS, GENERATE, VARIANTS, WINDOW
from kvrepro.errors import KvreproError
from kvrepro.figures import efficiency as figures
from kvrepro.figures.budget_curves import paper_values

from .test_bench import SMALL, points


def written(tmp_path, **changes):
    data, per_slot = points()
    parts = {"attention": 2.0, "mlp": 5.0, "sample": 1.0}
    report = data | {
        "kind": "bench",
        "device": {"cpu": "a cpu", "threads": 1},
        "time": "2026-11-22T00:00:00",
        "revision": "abc",
        "dtype": "float32",
        "clock": "cpu",
        "plan": asdict(SMALL),
        "bytes_per_slot": per_slot,
        "split": [{"rows": 2, "parts": parts}],
        "settings": [],
        "bars": [],
        "confirmed": [],
        "machine": {"copy_bytes_per_s_cpu": 8e9, "read_bytes_per_s_cpu": 1e10, "flops_cpu": 5e10},
    }
    (tmp_path / "bench.json").write_text(json.dumps(report | changes))
    (tmp_path / "other.json").write_text("{}")
    return measurements.find_measurements(tmp_path)


def test_measurements_of_a_file_become_frames(tmp_path):
    (measured,) = written(tmp_path)
    shown = measurements.overview([measured])
    assert shown.file.tolist() == ["bench.json", "none"] and "bounds only" in shown.device[1]
    steps = measurements.cost_by_step(measured, 2, 24, 96)
    assert set(steps.variant) == set(VARIANTS)
    full, ours = steps[steps.variant == GENERATE], steps[steps.variant == WINDOW]
    assert full.kv_bytes.is_monotonic_increasing and full.kv_bytes.iloc[-1] == 64 * 2 * (8 + 96)
    assert ours.kv_bytes.max() == 64 * 2 * 36 and ours.step_ms.iloc[0] == 3.0
    split = measurements.time_split(measured)
    assert split.share.sum() == pytest.approx(1.0) and split.part.tolist() == ["attention", "mlp", "sample"]
    roof = measurements.roofline(measured, 1000)
    assert set(roof.variant) == set(VARIANTS) and (roof.share > 0).all()
    assert measurements.roof_rates(measured) == (1e10, 5e10)
    (older,) = written(tmp_path, machine={"copy_bytes_per_s_cpu": 8e9, "flops_cpu": 5e10})
    assert measurements.roof_rates(older) == (8e9, 5e10)
    assert "1 thread, float32, processor time, 2026-11-22" in measured.label


def test_a_batch_that_was_not_measured_names_those_that_were(tmp_path):
    (measured,) = written(tmp_path)
    with pytest.raises(KvreproError, match=r"nothing for batch=4.*batches \(2,\)"):
        measurements.cost_by_step(measured, 4, 24, 96)


def test_without_any_measurement_frames_are_empty_and_figures_say_so(tmp_path):
    assert measurements.find_measurements(tmp_path) == []
    shown = measurements.overview([])
    assert shown.device.tolist() == ["no CPU measurement", "no GPU measurement: bounds only"]
    figure = figures.cost_by_step(measurements.cost_by_step(None, 8, 512, 100), title="x")
    assert [ax.texts[0].get_text() for ax in figure.axes] == ["not measured"] * 3
    assert measurements.table_of(None, "bars").bars.tolist() == ["not measured"]
    assert measurements.time_split(None).empty and measurements.roofline(None, 1).empty
    assert measurements.gpu_budget_rows(None).empty


def test_gpu_rows_are_read_and_only_then_drawn(tmp_path):
    row = {
        "model": "r1-llama-8b",
        "method": DYNTS,
        "name": "dynts C=2500",
        "budget_tokens": 2500,
        "rows": 20,
        "decode_tps": 100.0,
        "bound_tps": 200.0,
        "fraction_of_bound": 0.5,
        "kv_bytes": 1,
    }
    gpu = {
        "device": {"name": "a gpu"},
        "time": "2026-11-23",
        "revision": "abc",
        "checks": [],
        "decode": [
            row,
            row | {"method": "full"},
            row | {"name": "dynts C=2500 eager step", "variant": "eager step"},
            row | {"name": "dynts C=5000", "budget_tokens": 5000, "captured": False},
        ],
    }
    (tmp_path / "gpu.json").write_text(json.dumps(gpu))
    newest = measurements.latest(measurements.find_measurements(tmp_path), measurements.GPU)
    found = measurements.gpu_budget_rows(newest)
    assert found[["model", "decode_tps"]].to_numpy().tolist() == [["R1-Llama", 100.0]]
    limit = pd.DataFrame({"model": ["R1-Llama"], "budget_tokens": [2500], "bound_tps": [200.0]})
    for measured, lines in ((found, 3), (measurements.gpu_budget_rows(None), 2)):
        assert len(figures.speed_by_budget(limit, paper_values(), measured).axes[0].lines) == lines


def test_bounds_are_the_known_ones():
    models = [bounds.ModelBytes(name) for name in ("r1-llama-8b", "r1-qwen-7b")]
    limit = bounds.bound_by_budget(models, [2500, 5000])
    assert limit.bound_ms.round(1).tolist() == [7.0, 8.5, 5.6, 6.3]
    even = bounds.head_break_even(models[:1], [1, 4])
    assert even.by_operations.round().tolist() == [192, 192] and even.by_bytes.round().tolist() == [768, 192]
    rows = bounds.largest_batch(models, [2500, 5000])
    assert (rows.rows * rows.slots).min() > 0 and rows.rows.iloc[0] > rows.rows.iloc[1] > rows.rows.iloc[2]
