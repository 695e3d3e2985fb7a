"""What a class of one's own states about itself: a score, a name, a source, attributes of the right form."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, fields
from typing import ClassVar

import pytest

import kvrepro
from kvrepro.errors import KvreproError
from kvrepro.methods.declaration import ATTENTION, NEEDS
from kvrepro.methods.snapkv import SnapKVMethod
from kvrepro.methods.table import METHODS, method_class

from .test_own_method import Newest, generate


def test_a_class_without_a_score_says_what_to_write(random_models):
    @dataclass(frozen=True)
    class Nothing(kvrepro.EvictionMethod):
        pin_question: bool = True

    with pytest.raises(KvreproError, match=r"class Nothing has no score: define `def score\(self, view\)`"):
        generate(random_models["llama"], Nothing)
    with pytest.raises(KvreproError, match="has no score"):
        Nothing().score(None)


def test_a_class_states_nothing_and_has_a_name_and_a_source():
    assert (Newest.name, Newest.source) == ("newest", f"{Newest.__module__}.Newest")

    class OfSnapKV(SnapKVMethod):
        pass

    # numbers of a changed method must not be reported under the name of the one that it changes
    assert OfSnapKV.name == "of_snap_kv"
    assert OfSnapKV.source.endswith("OfSnapKV")


def test_every_method_of_the_table_states_its_own_name_and_source():
    for name in METHODS:
        cls = method_class(name)
        assert {"name", "source"} <= set(vars(cls)), name
        assert vars(cls)["source"] != f"{cls.__module__}.{cls.__qualname__}", f"{name} states no source"
        assert set(cls.needs) <= set(NEEDS)
        assert cls.attention in ATTENTION


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"name": 3}, "name=3, expected a text of letters"),
        ({"name": "a/b"}, "name='a/b'"),
        ({"name": ""}, "name=''"),
        ({"source": None}, "source=None, expected a text"),
        ({"state": 1}, "state=1, expected a text"),
        ({"needs": "predictor"}, r"needs='predictor', expected a tuple such as \('predictor',\)"),
        ({"needs": ("head",)}, "need of method class Wrong 'head'; known: calibration, judge"),
        ({"attention": "steps"}, "attention of method class Wrong 'steps'; known: none, queries, step"),
        ({"granularity": "head"}, "granularity = 'head' has no type, so .* write `granularity: str = 'head'`"),
        ({"pin_question": True}, "pin_question = True has no type"),
    ],
)
def test_a_class_attribute_of_the_wrong_form_is_named_when_the_class_is_defined(attributes, message):
    with pytest.raises(KvreproError, match=message):
        type("Wrong", (kvrepro.EvictionMethod,), attributes)


def test_switches_count_with_and_without_the_decorator(random_models):
    """Python left the parent's values to a class without the decorator; now every subclass is made a dataclass."""

    class Undecorated(Newest):
        granularity: str = "head"
        label: ClassVar[str] = "no switch"

    @dataclass(frozen=True)
    class Decorated(Newest):
        granularity: str = "head"

    assert {f.name for f in fields(Undecorated)} == {f.name for f in fields(Newest)}
    assert (Undecorated().granularity, Undecorated(granularity="layer").granularity) == ("head", "layer")
    with pytest.raises(FrozenInstanceError):
        Undecorated().granularity = "layer"
    with pytest.raises(FrozenInstanceError):
        del Undecorated().granularity
    expected = generate(random_models["llama"], granularity="head")
    for own in (Undecorated, Decorated):
        found = generate(random_models["llama"], own)
        assert [r.token_ids for r in found] == [r.token_ids for r in expected]
