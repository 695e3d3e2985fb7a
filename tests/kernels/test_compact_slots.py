"""`compact_slots`: the Triton code in the interpreter, the order of loads and stores in the machine code, bad input."""

from __future__ import annotations

import re

import pytest
import torch
from kvrepro.kernels import aot
from kvrepro.kernels.compact_slots import compact_slots

from .interpreter import assert_case, case_ids, needs_triton

STEM = "compact_slots"


@needs_triton
@pytest.mark.parametrize("name", case_ids(STEM))
def test_kernel_equals_its_twin(name):
    assert_case(STEM, name)


@needs_triton
def test_no_store_overtakes_a_load_of_the_same_block():
    """Several warps per program broke this on gfx942: its barrier does not wait for loads that are under way."""
    [launch] = aot.launches_of("compact-llama-bf16-shared")
    assert launch.warps == 1
    text = aot.build(launch, "gfx942").asm["amdgcn"]
    found = re.findall(r"\b(global_load_dwordx4|global_store_dwordx4|s_waitcnt vmcnt\(0\))", text)
    first_store = found.index("global_store_dwordx4")
    assert "global_load_dwordx4" in found[:first_store]
    assert found[first_store - 1] == "s_waitcnt vmcnt(0)"
    assert "global_load_dwordx4" not in found[first_store:]


def call(**changes):
    given = dict(storage=torch.zeros(2, 3, 4, 2, 9, 8), rows=torch.tensor([1, 2]), slots=torch.zeros(1, 2, 1, 5).long())
    return compact_slots(**(given | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"storage": torch.zeros(3, 4, 2, 9, 8)}, "storage has 5 dimensions"),
        ({"slots": torch.zeros(2, 2, 1, 5).long()}, "slots are given for 2 layers; expected 1 or 3"),
        ({"slots": torch.zeros(1, 2, 3, 5).long()}, "slots are given for 3 heads; expected 1 or 2"),
        ({"slots": torch.zeros(1, 3, 1, 5).long()}, "slots has size 3 in dimension 1, expected 2"),
        ({"slots": torch.zeros(1, 2, 1, 10).long()}, "10 slots cannot stay in a storage of 9"),
        ({"slots": torch.zeros(1, 2, 1, 5)}, "slots is torch.float32"),
    ],
)
def test_bad_input_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        call(**changes)
