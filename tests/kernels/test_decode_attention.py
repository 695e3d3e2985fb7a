"""`decode_attention`: the Triton code in the interpreter, the twin against the engine's CPU path, and bad input."""

from __future__ import annotations

import pytest
import torch
from kvrepro.kernels.checks.common import relative_error
from kvrepro.kernels.decode_attention import MAX_SPLITS, count_splits, decode_attention
from kvrepro.kernels.reference.attention import biased_attention

from .interpreter import assert_case, case_ids, needs_triton

STEM = "decode_attention"


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


def test_few_rows_are_split_more_than_many_and_short_ones_less():
    assert count_splits(160, 4096, 64, 132) == 7
    assert count_splits(8, 4096, 64, 132) == 32
    assert count_splits(8, 16384, 64, 132) == MAX_SPLITS
    assert count_splits(8, 100, 64, 132) == 1 and count_splits(8, 0, 64, 132) == 1
    assert count_splits(4000, 16384, 64, 132) == 1


def call(**changes):
    given = dict(
        query=torch.zeros(2, 6, 16),
        keys=torch.zeros(2, 2, 9, 16),
        values=torch.zeros(2, 2, 9, 16),
        lengths=None,
        scaling=1.0,
    )
    return decode_attention(**(given | changes))


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
