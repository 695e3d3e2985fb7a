"""`decode_attention`: the Triton code in the interpreter, the twin against the engine's CPU path, and bad input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from kvrepro.kernels import aot
from kvrepro.kernels.checks.common import relative_error
from kvrepro.kernels.decode_attention import (
    MOST_UNITS,
    SMALLEST_UNIT,
    ChunkPlan,
    count_units,
    decode_attention,
    plan_chunks,
    smallest_unit,
)
from kvrepro.kernels.launch import ceil_div
from kvrepro.kernels.reference.attention import biased_attention

from .interpreter import assert_case, case_ids, needs_triton

STEM = "decode_attention"


@cache
def interpreted():
    """What `decode_properties.py` prints."""
    env = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("decode_properties.py"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@needs_triton
@pytest.mark.parametrize("name", case_ids(STEM))
def test_kernel_equals_its_twin(name):
    assert_case(STEM, name)


def test_the_twin_equals_the_path_that_the_engine_uses_on_a_cpu():
    torch.manual_seed(0)
    lengths = torch.tensor([5, 1, 9])
    query, keys, values = torch.randn(3, 6, 16), torch.randn(3, 2, 9, 16), torch.randn(3, 2, 9, 16)
    bias = torch.zeros(3, 9).masked_fill(torch.arange(9) >= lengths[:, None], -torch.inf)[:, None, None]
    wanted, mass = biased_attention(query, keys, values, bias, 0.25, with_mass=True)
    found, found_mass = decode_attention(query, keys, values, lengths, 0.25, mass="all")
    assert relative_error(found, wanted) < 1e-6
    assert relative_error(found_mass, mass) < 1e-6
    for kind, reduced in (("group_mean", mass.mean(2)), ("group_max", mass.amax(2)), ("heads_mean", mass.mean((1, 2)))):
        assert relative_error(decode_attention(query, keys, values, lengths, 0.25, mass=kind)[1], reduced) < 1e-6


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_a_cpu_takes_another_path_to_the_same_result(dtype, ragged):
    torch.manual_seed(0)
    # a slice of wider storage, as the cache gives it
    query, keys, values = (
        torch.randn(3, 6, 16),
        torch.randn(3, 2, 12, 16)[:, :, :9],
        torch.randn(3, 2, 12, 16)[:, :, :9],
    )
    empty = torch.arange(9) >= torch.tensor([5, 1, 9])[:, None]
    bias = torch.zeros(3, 9).masked_fill(empty, -torch.inf)[:, None, None] if ragged else None
    half = [t.to(dtype) for t in (query, keys, values)]
    wanted, _ = biased_attention(*(t.float() for t in half), bias, 0.25)
    found, mass = biased_attention(*half, None if bias is None else bias.to(dtype), 0.25)
    assert found.dtype == dtype and found.shape == query.shape and mass is None
    assert relative_error(found, wanted) < (2e-3 if dtype == torch.float16 else 1e-2)


def test_units_fill_the_device_and_leave_long_rows_some_to_take():
    assert count_units(20, 8, 132) == 132 and count_units(20, 4, 132) == 264
    assert count_units(512, 8, 132) == 1024
    assert smallest_unit(0) == smallest_unit(SMALLEST_UNIT * MOST_UNITS) == SMALLEST_UNIT
    assert smallest_unit(16384) == 256 and smallest_unit(16385) == 384


@needs_triton
def test_a_plan_covers_every_slot_once_in_units_as_equal_as_their_number_allows():
    divided = 0
    for plan in interpreted()["plans"]:
        rows, span, starts, lengths = plan["rows"], plan["span"], plan["starts"], plan["lengths"]
        counts = [after - before for before, after in pairwise(starts)]
        units, unit = len(plan["row_of"]), smallest_unit(span)
        assert starts[0] == 0 and min(counts) >= 1 and starts[-1] <= units and max(counts) <= plan["most"] <= MOST_UNITS
        expected = [row for row, count in enumerate(counts) for _ in range(count)]
        assert plan["row_of"] == expected + [-1] * (units - len(expected))
        assert plan["counters"] == [0] * (2 * rows)
        sizes = []
        for length, count in zip(lengths, counts, strict=True):
            for tile in (16, 128):
                size = ceil_div(ceil_div(length, count), tile) * tile
                parts = [range(min(i * size, length), min((i + 1) * size, length)) for i in range(count)]
                assert [slot for part in parts for slot in part] == list(range(length))
                assert all(parts) or length == 0
            sizes.append(size)
        # no smaller chunk would have done
        chunk = max(unit, max(ceil_div(size, unit) * unit for size in sizes))
        smaller = sum(max(1, ceil_div(length, max(1, chunk - unit))) for length in lengths)
        assert chunk == unit or smaller > units
        by_length = sorted(zip(lengths, counts, strict=True))
        assert [count for _, count in by_length] == sorted(counts)
        divided += max(counts) > min(counts)
    assert divided > 10


@needs_triton
def test_random_lengths_give_the_twins_result():
    for case in interpreted()["cases"]:
        assert max(case["errors"].values()) <= 1e-5, case


@needs_triton
def test_who_ends_last_does_not_change_a_bit():
    assert interpreted()["backwards"] == 0


@needs_triton
def test_a_plan_of_other_lengths_only_balances_worse():
    assert interpreted()["others"] < 1e-5


@needs_triton
def test_a_fixed_chunk_keeps_a_rows_bits_from_its_neighbours():
    assert interpreted()["neighbours"] == {"None": False, "256": True}


@needs_triton
def test_the_fences_around_the_counter_are_what_the_race_rules_say():
    [launch] = aot.launches_of("decode-llama-bf16-2501")
    ptx = aot.build(launch, "sm_90").asm["ptx"]
    before, after = re.split(r"atom\.global\.gpu\.acq_rel\.add", ptx)
    # all threads' parts are stored before the barrier; what is read behind it comes from level 2
    last_store, last_barrier = before.rindex("st.global"), before.rindex("bar.sync")
    assert last_store < last_barrier
    assert "ld.global.cg" in after and not re.search(r"ld\.global\.(?!cg)", after) and "ld.global.cg" not in before
    # AMD's barrier waits for no store: every wave must wait for its own, then the release writes level 2 back
    on_amd = replace(launch, constants=launch.constants | {"HIP": True})
    code = aot.build(on_amd, "gfx942").asm["amdgcn"]
    before, after = code.split("global_atomic_add", 1)
    wait = before.index("s_waitcnt vmcnt(0)\nv_mov_b32")
    assert before.rindex("global_store") < wait < before.index("s_barrier", wait) < before.rindex("buffer_wbl2 sc1")
    assert "buffer_inv sc1" in after


def call(**changes):
    given = dict(
        query=torch.zeros(2, 6, 16),
        keys=torch.zeros(2, 2, 9, 16),
        values=torch.zeros(2, 2, 9, 16),
        lengths=None,
        scaling=1.0,
    )
    return decode_attention(**(given | changes))


def test_the_reference_needs_no_plan():
    keys = torch.zeros(2, 2, 9, 16)
    assert plan_chunks(keys, None) is None and call(plan=None)[0].shape == (2, 6, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"units": 1}, "1 work units for 2 rows"),
        ({"chunk": 100}, "chunk=100; expected a multiple of 128"),
        ({"lengths": torch.zeros(3, dtype=torch.int64)}, "lengths has size 3 in dimension 0, expected 2"),
        ({"impl": "triton"}, "the tensors are on cpu, not on a GPU"),
    ],
)
def test_bad_input_of_a_plan_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        plan_chunks(**(dict(keys=torch.zeros(2, 2, 9, 16), lengths=None) | changes))


@pytest.mark.parametrize(("starts", "counters", "message"), [(4, 4, "plan.starts has size 4"), (3, 3, "plan.counters")])
def test_a_plan_of_another_shape_is_refused(starts, counters, message):
    plan = ChunkPlan(*(torch.zeros(n, dtype=torch.int32) for n in (starts, 2, counters)), most=1)
    with pytest.raises(ValueError, match=message):
        call(plan=plan)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": torch.zeros(2, 5, 16)}, "5 query heads are no multiple of 2"),
        ({"query": torch.zeros(2, 6, 8)}, "keys has size 16 in dimension 3, expected 8"),
        ({"values": torch.zeros(2, 2, 8, 16)}, "values has size 8 in dimension 2, expected 9"),
        ({"keys": torch.zeros(2, 2, 9, 16).half()}, "keys is torch.float16"),
        ({"keys": torch.zeros(2, 2, 16, 9).transpose(2, 3)}, "keys has stride 9 in its last dimension"),
        ({"lengths": torch.zeros(3, dtype=torch.int64)}, "lengths has size 3 in dimension 0, expected 2"),
        ({"lengths": torch.zeros(2)}, "lengths is torch.float32"),
        ({"mass": "sum"}, "mass='sum'; known are"),
        ({"impl": "cuda"}, "impl='cuda'; known are auto, triton, reference"),
        ({"impl": "triton"}, "the tensors are on cpu, not on a GPU"),
    ],
)
def test_bad_input_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        call(**changes)
