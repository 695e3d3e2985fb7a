"""`key_redundancy`: the Triton code in the interpreter, the twin against the definition, golden numbers, bad input."""

from __future__ import annotations

import pytest
import torch
from kvrepro.kernels.checks.key_redundancy import GOLDEN_KEYS, GOLDEN_MEANS
from kvrepro.kernels.key_redundancy import key_redundancy
from kvrepro.kernels.reference.scores import blocked_key_redundancy

from .interpreter import assert_case, case_ids, needs_triton

STEM = "key_redundancy"


@needs_triton
@pytest.mark.parametrize("name", case_ids(STEM))
def test_kernel_equals_its_twin(name):
    assert_case(STEM, name)


def by_hand(keys: torch.Tensor, threshold: float) -> torch.Tensor:
    """docs/methods.md#redundancy for one head, one number at a time."""
    n = len(keys)
    similarity = [
        [0.0 if i == j else float(torch.cosine_similarity(keys[i], keys[j], dim=0)) for j in range(n)] for i in range(n)
    ]
    for row in similarity:
        row[max([j for j in range(n) if row[j] > threshold], default=0)] = 0.0
    return torch.tensor([sum(row[j] for row in similarity) / n for j in range(n)])


def test_golden_numbers():
    means = key_redundancy(torch.tensor(GOLDEN_KEYS)[None, None])[0, 0]
    assert torch.allclose(means, torch.tensor(GOLDEN_MEANS), atol=1e-6)
    expected = torch.tensor([0.23928, 0.23928, 0.16694, 0.21223, 0.14226])
    assert torch.allclose(means.softmax(-1), expected, atol=1e-5)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.95])
def test_the_twin_equals_the_definition(threshold):
    torch.manual_seed(0)
    keys = torch.randn(2, 2, 12, 6)
    lengths = torch.tensor([12, 7])
    keys[1, :, 7:] = torch.nan
    found = key_redundancy(keys, threshold, lengths=lengths)
    for row, n in enumerate(lengths.tolist()):
        for head in range(2):
            assert torch.allclose(found[row, head, :n], by_hand(keys[row, head, :n], threshold), atol=1e-6)
            assert not found[row, head, n:].any()


def test_the_twin_equals_the_path_that_methods_use_on_a_cpu():
    torch.manual_seed(0)
    keys = torch.randn(2, 3, 40, 8)
    wanted = blocked_key_redundancy(keys.flatten(0, 1), 0.4).view(2, 3, 40)
    assert torch.allclose(key_redundancy(keys, 0.4), wanted, atol=1e-6)


def test_the_block_of_the_twin_does_not_matter():
    from kvrepro.kernels.reference.scores import key_redundancy as twin

    torch.manual_seed(0)
    keys = torch.randn(1, 2, 50, 8)
    assert torch.allclose(twin(keys, block=7), twin(keys, block=1000), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": torch.zeros(2, 9, 8)}, "keys has 3 dimensions"),
        ({"keys": torch.zeros(2, 2, 9, 8).long()}, "keys is torch.int64"),
        ({"threshold": 1.0}, "threshold=1.0"),
        ({"threshold": -0.1}, "threshold=-0.1"),
        ({"lengths": torch.zeros(3).long()}, "lengths has size 3 in dimension 0, expected 2"),
    ],
)
def test_bad_input_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        key_redundancy(**({"keys": torch.zeros(2, 2, 9, 8)} | changes))
