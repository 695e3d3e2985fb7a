"""What a scheduler is asked for, and how long cells take side by side."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from kvrepro.errors import KvreproError
from kvrepro.models.shapes import model_size
from kvrepro.models.table import model_entry
from kvrepro.runs.config import CellConfig
from kvrepro.runs.forecast import CellForecast
from kvrepro.runs.machines import GPUS, machine
from kvrepro.runs.past_cells import ELSEWHERE, GIVEN, MEASURED, PastCell
from kvrepro.runs.scheduling import (
    CELL,
    CUDA_BYTES,
    DEVICES,
    PANELS,
    PROCESSES_BYTES,
    START_S,
    Box,
    Request,
    box_seconds,
    gpus_needed,
    makespan,
    panel_request,
    shards_for,
)
from kvrepro.runs.throughput import ThroughputSettings


def paper(**changes) -> CellConfig:
    values = dict(model="r1-qwen", benchmark="aime24", n_samples=5, max_new_tokens=16384, batch_rows=20)
    return CellConfig(**{**values, **changes})


def tiny(**changes) -> CellConfig:
    values = dict(model="tiny-r1-llama", benchmark="chain-12", n_problems=3, max_new_tokens=40, batch_rows=2)
    return CellConfig(**{**values, **changes})


def past(source, tps=100.0, overhead_s=30.0, **of):
    cell = dict(model="r1-qwen", benchmark="aime24", method="full", budget=None, new_tokens=10_000.0)
    return PastCell(**{**cell, **of}, tps=tps, overhead_s=overhead_s, source=source)


def test_a_cell_on_a_gpu_asks_for_the_weights_in_main_memory_and_one_device():
    plan = CellForecast(paper(), machine("h100"), [])
    assert plan.request.gpus == 1
    assert plan.request.runtime_min is None, "a bound is no time to end a job at"
    needed = plan.weights_bytes + PROCESSES_BYTES + CUDA_BYTES
    assert needed <= plan.request.mem_mb * 10**6 < needed + 10**8
    assert plan.row()["request"] == {"mem_mb": plan.request.mem_mb, "runtime_min": None, "gpus": 1}


def test_a_cell_on_a_cpu_asks_for_its_cache_and_no_device():
    small, large = (CellForecast(tiny(batch_rows=3, n_problems=n), machine(None), []) for n in (1, 3))
    assert small.request.gpus == large.request.gpus == 0
    many = CellForecast(tiny(n_problems=None, n_samples=100, batch_rows=4000), machine(None), [])
    more = many.beside_bytes(many.batch_rows) - small.beside_bytes(1)
    assert many.request.mem_mb - small.request.mem_mb == pytest.approx(more / 1e6, abs=101)
    assert 2_000 < small.request.mem_mb < 3_000


@pytest.mark.parametrize(("name", "gpus"), [("tiny-r1-qwen", 0), ("smollm2-135m", 0), ("r1-qwen-1.5b", 1)])
def test_small_models_ask_for_no_gpu(name, gpus):
    entry = model_entry(name)
    assert gpus_needed(entry, model_size(entry), 0, machine("h100")) == gpus


def test_a_model_over_several_gpus_asks_for_as_many_as_hold_it():
    entry = model_entry("tiny-r1-llama")
    size = replace(model_size(entry), parameters=70 * 10**9)
    spread = replace(entry, device_map="auto")
    assert gpus_needed(spread, size, 150 * 10**9, GPUS["h100"]) == 2
    assert gpus_needed(spread, size, 150 * 10**9, GPUS["h200"]) == 2
    assert gpus_needed(spread, size, 150 * 10**9, GPUS["b200"]) == 1
    on_a_cpu = replace(GPUS["t4"], gpus=0)
    assert gpus_needed(spread, size, 150 * 10**9, on_a_cpu) == 2, "a GPU of 80 GB is assumed where none is named"
    # bitsandbytes and accelerate need a GPU for a model of any size
    small = model_size(entry)
    assert gpus_needed(replace(entry, quantisation="8bit"), small, 0, GPUS["t4"]) == 1
    assert gpus_needed(spread, small, 0, GPUS["t4"]) == 1


def test_a_spread_model_is_planned_on_the_gpus_that_it_asks_for(monkeypatch):
    spread = replace(model_entry("r1-qwen"), device_map="auto")
    monkeypatch.setattr("kvrepro.runs.resolution.model_entry", lambda name: spread)
    plan = CellForecast(paper(), machine("a10g"), [])
    assert plan.weights_bytes + plan.kv_bytes > 24e9
    assert (plan.request.gpus, plan.problem) == (2, None)
    alone = CellForecast(paper(), machine("a10g", 1), [])
    assert alone.request.gpus == 2 and "do not fit beside the weights on a10g" in alone.problem


def test_the_run_time_is_the_measured_one_with_room():
    times = {source: CellForecast(paper(), machine("h100"), [past(source)]) for source in (MEASURED, GIVEN, ELSEWHERE)}
    given = times[GIVEN]
    assert given.seconds == pytest.approx(150 * 10_000 / 100 + 30)
    assert given.request.runtime_min == -(-(2 * given.seconds + START_S) // 60)
    # for another GPU only a table that the caller vouches for tells of time
    assert times[MEASURED].request.runtime_min is times[ELSEWHERE].request.runtime_min is None
    elsewhere = past(ELSEWHERE, model="tiny-r1-llama", benchmark="chain-12", new_tokens=40.0)
    here = CellForecast(tiny(), machine(None), [elsewhere])
    assert here.request.runtime_min == -(-(4 * here.seconds + START_S) // 60)


def test_a_panel_asks_for_all_its_caches_where_cells_take_turns():
    cells = [tiny(n_samples=100, batch_rows=300, max_new_tokens=2000, seed=s) for s in range(3)]
    plans = [CellForecast(cell, machine(None), []) for cell in cells]
    turns = panel_request(plans, ThroughputSettings(rows=200, turn_tokens=4))
    apart = panel_request(plans, ThroughputSettings(rows=200))
    assert apart.gpus == turns.gpus == 0 and apart.runtime_min is None
    assert turns.mem_mb - apart.mem_mb == pytest.approx(2 * plans[0].beside_bytes(200) / 1e6, abs=101)
    known = [past(GIVEN)]
    timed = [CellForecast(paper(seed=s), machine("h100"), known) for s in range(2)]
    settings = ThroughputSettings()
    seconds = sum(plan.throughput_seconds(settings) for plan in timed)
    assert panel_request(timed, settings).runtime_min == -(-(2 * seconds + START_S) // 60)


def test_cells_begin_in_order_as_soon_as_a_device_is_free():
    jobs = [(5.0, 1), (1.0, 1), (1.0, 1), (4.0, 1)]
    assert makespan(jobs, 1) == 11
    # 5 on the first; 1, 1 and 4 on the second
    assert makespan(jobs, 2) == 6
    assert makespan(jobs, 8) == 5
    assert makespan([], 3) == 0
    # one that takes two waits for both; one that wants more than there are takes all
    assert makespan([(3.0, 1), (1.0, 1), (2.0, 2)], 2) == makespan([(3.0, 1), (1.0, 1), (2.0, 9)], 2) == 5


def cell(seconds, gpus=1, name="a", n_replies=100):
    """A forecast with 2 s outside decoding and ten replies decoded together."""
    sizes = dict(overhead_s=2.0, n_replies=n_replies, batch_rows=10, cell_id=name)
    return SimpleNamespace(seconds=seconds, request=Request(1, None, gpus), **sizes)


def test_a_box_counts_cells_whose_time_is_known():
    assert box_seconds([cell(2.0), cell(None), cell(3.0, 0), cell(4.0)], 2) == 6
    assert Box.of([cell(None)], 2) is None


def test_a_box_says_what_limits_it():
    even = Box.of([cell(10.0)] * 8, 4)
    assert (even.seconds, even.one_gpu_s, even.limited_by) == (20, 80, DEVICES)
    long = Box.of([cell(10.0), cell(102.0, name="long")], 4, panels_s=5.0)
    assert (long.cells_s, long.seconds, long.one_gpu_s, long.limited_by) == (102, 107, 117, CELL)
    assert (long.longest_cell, long.longest_s) == ("long", 102)
    # 100 s of decoding in parts of at most 28 s, 2 of them outside decoding: four, the last of which waits 10 s
    assert long.even_s == 28 and long.split_s == 10 + 27
    assert Box.of([cell(10.0)] * 8, 4, panels_s=30.0).limited_by == PANELS


def test_a_cell_is_split_until_no_part_is_longer():
    plan = CellForecast(paper(), machine("h100"), [past(GIVEN)])
    assert shards_for(plan, plan.seconds) == 1
    # every part has its 30 s outside decoding
    assert shards_for(plan, 15_000 / 3 + 30) == 3
    assert shards_for(plan, 15_000 / 3 + 29) == 4
    # 150 replies are 8 batches of 20: more parts would decode fewer rows at once and hardly be faster
    assert shards_for(plan, 60) == shards_for(plan, 1) == 8
    assert shards_for(CellForecast(paper(), machine(None), []), 1) == 1


def test_more_gpus_than_there_are_is_said_with_the_way_out(monkeypatch):
    here = replace(GPUS["t4"], name="a card", gpus=2)
    monkeypatch.setattr("kvrepro.runs.machines._this_machine", lambda: here)
    assert machine(None, 2).gpus == machine(None).gpus == 2 and machine(None, 1).gpus == 1
    assert machine("h100", 8).gpus == 8 and machine("h100").gpus is None
    with pytest.raises(KvreproError, match=r"--gpus 8: this machine has 2 GPUs; .* name its GPU: --gpu h100"):
        machine(None, 8)
    monkeypatch.setattr("kvrepro.runs.machines._this_machine", lambda: replace(here, gpus=0))
    with pytest.raises(KvreproError, match="--gpus 1: this machine has no GPU"):
        machine(None, 1)
    with pytest.raises(KvreproError, match="--gpus 0: must be at least 1"):
        machine("h100", 0)
