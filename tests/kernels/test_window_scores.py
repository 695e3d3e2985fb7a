"""`window_scores`: the Triton code in the interpreter, the twin against the definition, bad input."""

from __future__ import annotations

import pytest
import torch
from kvrepro.kernels.reference.scores import weighted_window_scores
from kvrepro.kernels.window_scores import window_scores

from .interpreter import assert_case, case_ids, needs_triton

STEM = "window_scores"


@needs_triton
@pytest.mark.parametrize("name", case_ids(STEM))
def test_kernel_equals_its_twin(name):
    assert_case(STEM, name)


@pytest.mark.parametrize("group", ["max_logits", "mean", "max"])
def test_the_twin_equals_the_definition(group):
    torch.manual_seed(0)
    queries, keys, n, kv_heads, members = torch.randn(2, 6, 4, 8), torch.randn(2, 2, 9, 8), [9, 5], 2, 3
    valid = torch.tensor([[True] * 4, [False, True, True, False]])
    found = window_scores(queries, keys, valid, 0.3, group=group, lengths=torch.tensor(n))
    for row in range(2):
        for head in range(kv_heads):
            per_query = []
            for w in valid[row].nonzero().flatten().tolist():
                x = torch.stack(
                    [keys[row, head, : n[row]] @ queries[row, head * members + g, w] * 0.3 for g in range(members)]
                )
                reduced = {
                    "max_logits": lambda x=x: x.amax(0).softmax(-1),
                    "mean": lambda x=x: x.softmax(-1).mean(0),
                    "max": lambda x=x: x.softmax(-1).amax(0),
                }
                per_query.append(reduced[group]())
            assert torch.allclose(found[row, head, : n[row]], torch.stack(per_query).mean(0), atol=1e-6)
            assert not found[row, head, n[row] :].any()


@pytest.mark.parametrize("group", ["max_logits", "mean", "max"])
def test_the_twin_equals_the_path_that_methods_use_on_a_cpu(group):
    torch.manual_seed(0)
    queries, keys = torch.randn(2, 6, 4, 8), torch.randn(2, 2, 9, 8)
    weights = torch.full((2, 4), 0.25)
    wanted = weighted_window_scores(queries.unflatten(1, (2, 3)), keys, None, weights, 0.3, group)
    assert torch.allclose(window_scores(queries, keys, None, 0.3, group=group), wanted, atol=1e-6)


def test_one_head_per_group_makes_the_reductions_equal():
    torch.manual_seed(0)
    queries, keys = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 7, 8)
    scores = [window_scores(queries, keys, None, 1.0, group=g) for g in ("max_logits", "mean", "max")]
    assert torch.allclose(scores[0], scores[1]) and torch.allclose(scores[0], scores[2])
    assert torch.allclose(scores[0].sum(-1), torch.ones(1, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": torch.zeros(2, 5, 3, 8)}, "5 query heads are no multiple of 2"),
        ({"queries": torch.zeros(2, 6, 0, 8)}, "a window of 0 queries"),
        ({"valid": torch.zeros(2, 4, dtype=torch.bool)}, "valid has size 4 in dimension 1, expected 3"),
        ({"valid": torch.zeros(2, 3)}, "valid is torch.float32; expected bool"),
        ({"group": "sum"}, "group='sum'; known are"),
        ({"lengths": torch.zeros(1).long()}, "lengths has size 1 in dimension 0, expected 2"),
    ],
)
def test_bad_input_is_named(changes, message):
    given = dict(queries=torch.zeros(2, 6, 3, 8), keys=torch.zeros(2, 2, 9, 8), valid=None, scaling=1.0)
    with pytest.raises(ValueError, match=message):
        window_scores(**(given | changes))
