"""`add_rms_norm`: the Triton code in the interpreter, the twin against torch's two operations, and bad input."""

from __future__ import annotations

import pytest
import torch
from kvrepro.kernels.add_rms_norm import LARGEST_SIZE, add_rms_norm

from .interpreter import assert_case, case_ids, needs_triton

STEM = "add_rms_norm"


@needs_triton
@pytest.mark.parametrize("name", case_ids(STEM))
def test_kernel_equals_its_twin(name):
    assert_case(STEM, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_twin_is_the_addition_and_torchs_norm_bit_for_bit(dtype):
    torch.manual_seed(0)
    x, residual, weight = (torch.randn(*shape).to(dtype) for shape in ((5, 48), (5, 48), (48,)))
    normed, summed = add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(summed, residual + x)
    assert torch.equal(normed, torch.nn.functional.rms_norm(residual + x, (48,), weight, 1e-5))
    first, same = add_rms_norm(x, None, weight, 1e-5)
    assert same is x and torch.equal(first, torch.nn.functional.rms_norm(x, (48,), weight, 1e-5))


def test_the_norm_is_that_of_its_formula():
    torch.manual_seed(0)
    x, weight = torch.randn(3, 20, dtype=torch.float64), torch.randn(20, dtype=torch.float64)
    wanted = x / (x.square().mean(1, keepdim=True) + 0.1).sqrt() * weight
    assert torch.allclose(add_rms_norm(x.float(), None, weight.float(), 0.1)[0].double(), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(3)}, "x has 1 dimensions"),
        ({"residual": torch.zeros(2, 16)}, "residual has size 2 in dimension 0, expected 3"),
        ({"residual": torch.zeros(3, 16).half()}, "residual is torch.float16"),
        ({"weight": torch.zeros(8)}, "weight has size 8 in dimension 0, expected 16"),
        ({"weight": torch.zeros(16).long()}, "weight is torch.int64"),
        ({"x": torch.zeros(16, 3).T}, "x has stride 3 in its last dimension"),
        ({"impl": "x"}, "impl='x'"),
    ],
)
def test_bad_input_is_named(changes, message):
    given = dict(x=torch.zeros(3, 16), residual=torch.zeros(3, 16), weight=torch.zeros(16), eps=1e-5)
    with pytest.raises(ValueError, match=message):
        add_rms_norm(**(given | changes))


@needs_triton
def test_a_row_that_does_not_fit_is_refused():
    size = LARGEST_SIZE + 1
    with pytest.raises(ValueError, match=f"{size} features are more than {LARGEST_SIZE}"):
        add_rms_norm(torch.zeros(1, size), None, torch.zeros(size), 1e-5, impl="triton")
