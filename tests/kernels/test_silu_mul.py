"""`silu_mul`: the Triton code in the interpreter, the twin against torch's two operations, and bad input."""

from __future__ import annotations

import pytest
import torch
from kvrepro.kernels.silu_mul import silu_mul

from .interpreter import assert_case, case_ids, needs_triton

STEM = "silu_mul"


@needs_triton
@pytest.mark.parametrize("name", case_ids(STEM))
def test_kernel_equals_its_twin(name):
    assert_case(STEM, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_twin_is_torchs_silu_of_the_first_half_times_the_second_bit_for_bit(dtype):
    torch.manual_seed(0)
    gate_up = torch.randn(5, 48).to(dtype)
    # views: torch's silu of a dense copy may differ in the last bit
    gate, up = gate_up[:, :24], gate_up[:, 24:]
    found = silu_mul(gate_up)
    assert found.dtype == dtype and torch.equal(found, torch.nn.functional.silu(gate) * up)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate_up": torch.zeros(3)}, "gate_up has 1 dimensions"),
        ({"gate_up": torch.zeros(3, 7)}, "gate_up has 7 features; expected an even number"),
        ({"gate_up": torch.zeros(3, 8).long()}, "gate_up is torch.int64"),
        ({"gate_up": torch.zeros(8, 3).T}, "gate_up has stride 3 in its last dimension"),
        ({"impl": "x"}, "impl='x'"),
    ],
)
def test_bad_input_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        silu_mul(**(dict(gate_up=torch.zeros(3, 8)) | changes))
