"""`append_kv`: the Triton code in the interpreter, the twin against transformers' rotation, and bad input."""

from __future__ import annotations

import pytest
import torch
from kvrepro.kernels.append_kv import append_kv
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from .interpreter import assert_case, case_ids, needs_triton

STEM = "append_kv"


@needs_triton
@pytest.mark.parametrize("name", case_ids(STEM))
def test_kernel_equals_its_twin(name):
    assert_case(STEM, name)


def test_rotation_is_that_of_transformers():
    torch.manual_seed(0)
    qkv, cos, sin = torch.randn(3, 10, 16), torch.randn(3, 16), torch.randn(3, 16)
    keys, values = torch.zeros(3, 2, 7, 16), torch.zeros(3, 2, 7, 16)
    query = append_kv(qkv, cos, sin, keys, values, torch.tensor([0, 3, 6]))
    q, k = apply_rotary_pos_emb(qkv[:, :6, None], qkv[:, 6:8, None], cos[:, None], sin[:, None])
    assert torch.allclose(query, q[:, :, 0], atol=1e-6)
    for row, slot in enumerate((0, 3, 6)):
        assert torch.allclose(keys[row, :, slot], k[row, :, 0], atol=1e-6)
        assert torch.equal(values[row, :, slot], qkv[row, 8:])
    assert keys.abs().sum((1, 3)).count_nonzero() == 3


def call(**changes):
    given = dict(
        qkv=torch.zeros(3, 10, 16),
        cos=torch.zeros(3, 16),
        sin=torch.zeros(3, 16),
        keys=torch.zeros(3, 2, 7, 16),
        values=torch.zeros(3, 2, 7, 16),
        slots=torch.zeros(3, dtype=torch.int64),
    )
    return append_kv(**(given | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qkv": torch.zeros(3, 4, 16)}, "qkv has 4 heads, no more than twice the 2 KV heads"),
        ({"qkv": torch.zeros(3, 9, 16)}, "5 query heads are no multiple of 2"),
        ({"qkv": torch.zeros(4, 10, 16)}, "qkv has 4 rows, the cache 3"),
        ({"slots": torch.zeros(2, dtype=torch.int64)}, "slots has size 2 in dimension 0, expected 3"),
        ({"cos": None}, "cos and sin come together"),
        ({"cos": torch.zeros(3, 8)}, "cos has size 8 in dimension 1, expected 16"),
        ({"values": torch.zeros(3, 2, 7, 15)}, "values has size 15"),
        ({"slots": torch.zeros(3)}, "slots is torch.float32"),
    ],
)
def test_bad_input_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        call(**changes)
