"""What a method of one's own may get wrong in its hooks, said before anything is wrong."""

from __future__ import annotations

import pytest
import torch

import kvrepro
from kvrepro.cache.slots import CompressedCache
from kvrepro.errors import KvreproError
from kvrepro.methods.dynts import DynTSMethod
from kvrepro.methods.recency import WindowMethod
from kvrepro.methods.views import EvictionView, RowNumbers


def test_whoever_defines_observe_says_what_it_does():
    class Mixin:
        def observe(self, step):
            step.hidden.sum().item()

    class Plain(WindowMethod):
        pass

    class Mixed(Mixin, WindowMethod):
        pass

    class Own(DynTSMethod):
        def observe(self, step):
            pass

    class Child(Own):
        pass

    class Declared(Own):
        observes_on_device = True

    found = {cls.__name__: cls.observes_on_device for cls in (Plain, DynTSMethod, Mixed, Own, Child, Declared)}
    assert found == {"Plain": True, "DynTSMethod": True, "Mixed": False, "Own": False, "Child": False, "Declared": True}


@pytest.fixture
def view(random_model):
    cache = CompressedCache(random_model.config, 3, 12)
    shape = cache.shape
    for _ in range(3):
        cache.admit(*torch.randn(2, shape.layers, shape.kv_heads, 10, shape.head_dim))
    three = [0, 0, 0]
    return EvictionView.of(cache, 10, RowNumbers([0, 1, 2], three, three, three, three))


def test_a_part_of_a_view_is_named_by_places(view):
    assert view.subset([2, 0]).rows.tolist() == [2, 0]
    for mask in (torch.tensor([False, True, False]), [False, True, False]):
        with pytest.raises(KvreproError, match=r"expected places in the view, such as \[0, 2\]; a mask is not one"):
            view.subset(mask)


def test_every_row_needs_a_number_of_kept_slots(view):
    class Doubled(WindowMethod):
        def kept_slots(self, view):
            return super().kept_slots(view) * 2

    method = kvrepro.create_method(Doubled, 8, 4, evict_every=2, protocol="fair")
    with pytest.raises(KvreproError, match="method 'doubled': kept_slots gave 6 numbers, expected one for each of 3"):
        method.plans(view)
