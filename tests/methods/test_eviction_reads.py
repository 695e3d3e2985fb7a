"""What an eviction asks of the device: nothing, so that the host never waits. On the device `meta` asking fails."""

from __future__ import annotations

import pytest
import torch

from kvrepro.cache.rotary import Rotary
from kvrepro.cache.slots import CompressedCache, KeepPlan
from kvrepro.methods.views import NEVER, EvictionView, RowNumbers

from ..crafted import config, crafted_view
from ..method_cases import BUDGET, COMPRESSED, build, fair, published

N_PROMPT, ROWS = (6, 9, 6), [2, 0, 1]
# separators are counted where the flags lie
READS = [("sepllm", "as_published"), ("sepllm_dynts", "as_published")]


def numbers(n_prompt=N_PROMPT, rows=ROWS) -> RowNumbers:
    n = len(rows)
    return RowNumbers(list(rows), list(n_prompt), [NEVER] * n, [-(2**63) + i for i in range(n)], [0] * n)


def meta_view(method) -> EvictionView:
    cache = CompressedCache(config(), 3, 70, method.granularity, device="meta")
    cache.rotary = Rotary(torch.empty(4, device="meta"))
    method.prepare(cache)
    length = method.peak_slots(6, 0)
    cache.lengths, cache.seen = [length] * 3, [length] * 3
    return EvictionView.of(cache, length, numbers())


@pytest.mark.parametrize("protocol", ["fair", "as_published"])
@pytest.mark.parametrize("name", COMPRESSED)
def test_an_eviction_asks_nothing_of_the_device(name, protocol, monkeypatch):
    # the kernel reads its plan on the device; its twin is for a CPU and asks for the rows
    monkeypatch.setattr("kvrepro.cache.slots.compact_slots", lambda *_: None)
    method = build(name, BUDGET, **(fair(name) if protocol == "fair" else published(name)))
    view = meta_view(method)
    if (name, protocol) in READS:
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            method.plans(view)
        return
    plans, overflow = method.plans(view)
    assert (overflow.shape, overflow.device.type) == ((3,), "meta")
    assert sorted(row for plan in plans for row in plan.host_rows) == [0, 1, 2]
    for plan in plans:
        view.cache.compact(plan)
        method.after_compact(view.cache, plan)
        assert {view.cache.lengths[row] for row in plan.host_rows} == {plan.slots.shape[-1]}
    if (name, protocol) in [("rpc", "as_published"), ("dynts_nothink", "as_published")]:
        assert len(plans) == 2 and view.cache.lengths[0] == view.cache.lengths[1] + 3


def test_a_view_of_host_numbers_is_the_view_of_their_tensors():
    method = build("window", BUDGET, **fair("window"))
    cache = crafted_view(method, 54, rows=3).cache
    made = EvictionView.of(cache, 54, numbers())
    plain = EvictionView(cache, *(torch.tensor(x) for x in (ROWS,)), 54, *(torch.tensor(x) for x in numbers()[1:]))
    assert made.host == plain.host == numbers()
    for name in RowNumbers._fields:
        assert torch.equal(getattr(made, name), getattr(plain, name))
    for view in (made, plain):
        some = view.subset([2, 0])
        assert some.host == numbers((6, 6), (1, 2))._replace(noise_keys=[-(2**63) + 2, -(2**63)])
        assert some.noise_keys.tolist() == some.host.noise_keys and some.rows.tolist() == [1, 2]


def test_rows_that_keep_different_numbers_are_counted_in_the_order_of_the_view():
    """Row by row alone: 4 and 0 pinned slots do not fit, whichever row comes first."""

    class Uneven(type(build("question_window", BUDGET, **fair("question_window")))):
        name, source = "uneven", "test"

        def kept_slots(self, view):
            return [{6: 20, 16: 20, 9: 24}[n] for n in view.host.n_prompt]

    method = build(Uneven, 24, window=8, evict_every=6, protocol="fair", pin_overflow="keep_first")
    cache = crafted_view(method, 30, rows=3).cache
    for prompts in ((6, 9, 16), (16, 9, 6), (9, 16, 6)):
        view = EvictionView.of(cache, 30, numbers(prompts))
        plans, overflow = method.plans(view)
        assert overflow.tolist() == [max(0, n - 12) if n != 9 else 0 for n in prompts]
        assert [plan.slots.shape[-1] for plan in plans] == [20, 24]
        for plan in plans:
            assert plan.rows.tolist() == plan.host_rows
            for i, row in enumerate(plan.host_rows):
                place = ROWS.index(row)
                [alone], _ = method.plans(view.subset([place]))
                assert torch.equal(alone.slots[:, 0], plan.slots[:, i])


def test_kept_slots_may_be_a_tensor():
    class Uneven(type(build("window", BUDGET, **fair("window")))):
        name, source = "uneven_tensor", "test"

        def kept_slots(self, view):
            return view.n_prompt + 12

    method = build(Uneven, 24, window=8, evict_every=6, protocol="fair")
    view = EvictionView.of(crafted_view(method, 30, rows=3).cache, 30, numbers())
    assert [(p.host_rows, p.slots.shape[-1]) for p in method.plans(view)[0]] == [([2, 1], 18), ([0], 21)]


def test_a_plan_without_host_rows_compacts_alike():
    found = []
    for host_rows in (None, [0, 2]):
        method = build("window", BUDGET, **fair("window"))
        cache = crafted_view(method, 54, rows=3).cache
        cache.compact(KeepPlan(torch.tensor([0, 2]), torch.arange(5, 40).expand(1, 2, 1, -1), host_rows))
        found.append((cache.lengths, cache.positions[:, :, :, :35].tolist()))
    assert found[0] == found[1]
    assert found[0][0] == [35, 54, 35]
