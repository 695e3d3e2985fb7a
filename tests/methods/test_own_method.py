"""A method of one's own: README's example, what a view gives, and every mistake by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

import kvrepro
from kvrepro.benchmarks.chains.language import build_tokenizer
from kvrepro.benchmarks.table import load_problems
from kvrepro.errors import KvreproError, UnknownNameError
from kvrepro.methods.base import NAN_SCORE
from kvrepro.methods.table import create_method
from kvrepro.paths import PACKAGE

from ..crafted import crafted_view, kept

FAIR = {"window": 4, "evict_every": 6, "protocol": "fair"}


@dataclass(frozen=True)
class Newest(kvrepro.EvictionMethod):
    """Recency, with whatever a test makes of the score."""

    change: object = None

    def score(self, view):
        scores = view.positions.float()
        return scores if self.change is None else self.change(scores)


def generate(model, method=Newest, prompts=((5, 60, 7, 80, 9),), max_new_tokens=40, **options):
    sizes = {"budget": 24, **FAIR} if isinstance(method, type) else {}
    return kvrepro.generate(
        model, build_tokenizer(), [list(p) for p in prompts], method, max_new_tokens=max_new_tokens, **sizes, **options
    )


def readme_block(start: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", (PACKAGE.parent / "README.md").read_text(), re.DOTALL)
    (block,) = [b for b in blocks if start in b]
    return block


@pytest.mark.model
@pytest.mark.parametrize("n_questions", [1, 2, 3])
def test_readmes_method_runs_as_it_stands_and_keeps_the_smallest_keys(n_questions):
    model, tokenizer = kvrepro.load_model("tiny-r1-llama")
    questions = [p.question for p in load_problems("chain-12", n_questions)]
    names: dict[str, object] = {}
    exec(readme_block("class KeyNorm").split("kvrepro.generate(")[0], names)
    replies = kvrepro.generate(model, tokenizer, questions, names["KeyNorm"], budget=192, window=32, ratio=0.75)
    assert len(replies) == n_questions
    assert any(r.evictions for r in replies)
    method = create_method(names["KeyNorm"], 24, **FAIR)
    view = crafted_view(method, 30, rows=n_questions)
    norms = view.keys(slice(0, 2)).norm(dim=-1)
    torch.testing.assert_close(method.score(view)[0, :, 0], -norms.mean(2).sum(0))


def test_keys_values_and_queries_of_a_layer_are_those_of_its_slice():
    method = create_method("snapkv", 24, **FAIR, obs_window=4)
    for rows in (1, 2, 3):
        view = crafted_view(method, 30, rows=rows)
        for layer in (0, 1, -1):
            part = slice(layer % 2, layer % 2 + 1)
            for one, many in (
                (view.keys(layer), view.keys(part)),
                (view.values(layer), view.values(part)),
                (view.queries(layer, 4)[0], view.queries(part, 4)[0]),
            ):
                assert torch.equal(one, many[0])
            assert view.keys(layer).shape == (rows, 2, 30, 8)
            assert view.scaling(layer) == view.scaling(part) == view.scaling(slice(None)) == 8**-0.5
            assert view.queries(layer, 3)[0].shape == (rows, 2, 3, 3, 8)


@pytest.mark.parametrize("layers", [2, -3, 1.0, True, None, [0, 1], "0"])
def test_a_layer_that_does_not_exist_is_named(layers):
    view = crafted_view(create_method("snapkv", 24, **FAIR, obs_window=4), 30)
    for look in (view.keys, view.values, view.scaling, lambda chosen: view.queries(chosen, 4)):
        with pytest.raises(KvreproError, match=r"layers=.*: expected a number from 0 to 1 or a slice of the 2 layers"):
            look(layers)


def test_layers_of_different_scale_have_no_scale_together():
    view = crafted_view(create_method("window", 24, **FAIR), 30)
    view.cache.scaling = (0.5, 0.25)
    assert [view.scaling(layer) for layer in (0, 1)] == [view.scaling(block) for block in view.layer_blocks()]
    with pytest.raises(KvreproError, match="differ in their scale .*: take them from view.layer_blocks"):
        view.scaling(slice(0, 2))


def test_queries_and_state_that_were_not_declared_say_how():
    view = crafted_view(create_method("window", 24, **FAIR), 30)
    with pytest.raises(KvreproError, match=r"4 queries were asked for and 0 are kept: call cache.keep_queries\(4\)"):
        view.queries(0, 4)
    for use in (view.state, lambda name: view.set_state(name, torch.zeros(1))):
        with pytest.raises(UnknownNameError, match=r"slot state \(cache.add_slot_state in prepare .*'importance'"):
            use("importance")
    wider = crafted_view(create_method("snapkv", 24, **FAIR, obs_window=4), 30)
    with pytest.raises(KvreproError, match="5 queries were asked for and 4 are kept"):
        wider.queries(0, 5)


@pytest.mark.parametrize(
    ("change", "gave"),
    [
        (lambda s: s[0, 0], r"the shape \[1, 30\]"),
        (lambda s: s[..., :-4], r"the shape \[1, 1, 1, 26\]"),
        (lambda s: s.expand(-1, -1, 6, -1), r"the shape \[1, 1, 6, 30\]"),
        (lambda s: s.expand(3, -1, -1, -1), r"the shape \[3, 1, 1, 30\]"),
        (lambda s: s.expand(-1, 2, -1, -1), r"the shape \[1, 2, 1, 30\]"),
        (lambda s: s.tolist(), "list"),
        (lambda s: None, "NoneType"),
        (lambda s: s > 3, "torch.bool on cpu"),
        (lambda s: s + 0j, "torch.complex64 on cpu"),
        (lambda s: s.to("meta"), "torch.float32 on meta"),
        (lambda s: s / s * torch.nan, "NaN for a row of 30 slots"),
        (lambda s: s.masked_fill(s == 7, torch.nan), "NaN for a row of 30 slots"),
    ],
)
def test_a_score_that_cannot_rank_is_refused_at_the_first_eviction(random_models, change, gave):
    with pytest.raises(KvreproError, match=f"method 'newest': score gave {gave}") as caught:
        generate(random_models["llama"], change=change)
    if "NaN" not in gave and "torch" not in gave:
        assert "expected " in str(caught.value)
        assert "[2 or 1, 1, 2 or 1, 30] (layers, rows, KV heads, slots)" in str(caught.value)


def test_nan_that_comes_only_at_a_later_eviction_is_refused_too(random_models):
    seen = []

    def change(scores):
        seen.append(len(seen))
        return scores * torch.nan if len(seen) == 3 else scores

    with pytest.raises(KvreproError, match="score gave NaN"):
        generate(random_models["llama"], change=change)
    assert len(seen) == 3


def test_nan_on_slots_that_stay_anyway_does_no_harm(random_models):
    model = random_models["llama"]
    # the window and the pinned question are not ranked
    change = lambda s: s.masked_fill((s >= s.max() - 3) | (s < 5), torch.nan)  # noqa: E731
    [there] = generate(model, change=change, pin_question=True)
    [plain] = generate(model, pin_question=True)
    assert there.token_ids == plain.token_ids
    assert plain.evictions > 1


def test_a_nan_takes_the_place_of_the_count_of_its_own_row():
    change = lambda s: s.masked_fill(s == 78, torch.nan)  # noqa: E731
    method = create_method(Newest, 24, **FAIR, pin_question=True, pin_overflow="keep_first", change=change)
    view = crafted_view(method, 30, n_prompt=23)
    view.cache.positions[:, 1] += 60
    _, overflow = method.plans(view)
    assert overflow.tolist() == [3, NAN_SCORE]
    assert method.dropped_pins(3, 30) == 3
    with pytest.raises(KvreproError, match="score gave NaN for a row of 30 slots"):
        method.dropped_pins(NAN_SCORE, 30)


def test_numbers_of_any_real_type_rank_alike_and_large_integers_do_not_tie():
    slots = [
        kept(create_method(Newest, 24, **FAIR, change=c), crafted_view(create_method("window", 24, **FAIR), 30))
        for c in (None, lambda s: s.half(), lambda s: s.long(), lambda s: s.double(), lambda s: s.long() + 2**40)
    ]
    assert all(torch.equal(slots[0], other) for other in slots)


def test_scores_may_come_block_by_block(random_models):
    class InBlocks(kvrepro.EvictionMethod):
        granularity: str = "head"

        def score_layers(self, view, layers):
            return view.keys(layers).norm(dim=-1)

    class AtOnce(InBlocks):
        def score(self, view):
            return view.keys(slice(None)).norm(dim=-1)

    blocks, once = (generate(random_models["llama"], own) for own in (InBlocks, AtOnce))
    assert [r.token_ids for r in blocks] == [r.token_ids for r in once]
    assert all(r.evictions for r in blocks)


def test_limits_are_held_with_those_of_the_parents():
    class Limited(kvrepro.EvictionMethod):
        limits: ClassVar = {"share": "(0, 1]", "count": 2, "kind": ("a", "b")}
        share: float = 1.0
        count: int = 2
        kind: str = "a"

    for given, message in (
        ({"share": 0.0}, r"share=0.0: must lie in \(0, 1\]"),
        ({"share": 1.1}, "share=1.1"),
        ({"share": float("nan")}, "share=nan"),
        ({"count": 1}, "count=1: must be at least 2"),
        ({"kind": "c"}, "kind='c': known are a, b"),
        ({"sinks": -1}, "sinks=-1: must be at least 0"),
    ):
        with pytest.raises(KvreproError, match=message):
            Limited(**given)
    assert Limited(share=0.5, kind="b").count == 2


def test_limits_leave_an_option_that_is_not_given_alone():
    class Optional(kvrepro.EvictionMethod):
        limits: ClassVar = {"count": 2}
        count: int | None = None

    assert Optional().count is None
    with pytest.raises(KvreproError, match="count=1: must be at least 2"):
        Optional(count=1)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"limits": 0.5, "__annotations__": {"limits": "float"}}, "limits=0.5, expected a mapping"),
        (
            {"limits": {"sink": 1}},
            "unknown option in the limits of method class Wrong 'sink'; known: .*did you mean 'sinks'",
        ),
        ({"moved": lambda self, cache, plan: None}, "defines moved, which is never called: it is after_compact now"),
    ],
)
def test_limits_of_nothing_and_hooks_under_a_former_name_are_refused(attributes, message):
    with pytest.raises(KvreproError, match=message):
        type("Wrong", (kvrepro.EvictionMethod,), attributes)


def test_a_class_may_not_take_the_name_of_a_method_of_the_package():
    @dataclass(frozen=True)
    class Mine(Newest):
        name: ClassVar[str] = "h2o"

    with pytest.raises(KvreproError, match="class Mine is named 'h2o', which is a method of the package"):
        create_method(Mine, 24, **FAIR)


@pytest.mark.parametrize("given", [3, None, int, kvrepro.EvictionMethod, SimpleNamespace(name="x"), ["window"]])
def test_what_is_no_method_is_named(given):
    with pytest.raises(KvreproError, match=r"method=.*: expected a name \(kvrepro list methods\) or a subclass"):
        create_method(given, 24, **FAIR)


def test_an_own_method_runs_by_class_and_by_instance(random_models):
    model = random_models["llama"]
    prompts = ((5, 60, 7, 80, 9), (5, 61, 7))
    by_class = generate(model, prompts=prompts)
    by_instance = generate(model, create_method(Newest, 24, **FAIR), prompts=prompts)
    assert [r.token_ids for r in by_class] == [r.token_ids for r in by_instance]
    assert all(r.evictions for r in by_class)


def test_pinned_slots_stand_above_infinite_scores():
    """Both were infinite and the earlier slot won, so pinned ones were dropped and not counted."""
    found = []
    for top in (1e9, torch.inf):
        method = create_method(
            Newest, 24, **FAIR, pin_answer=True, change=lambda s, top=top: s.masked_fill(s < 24, top)
        )
        view = crafted_view(method, 40, answer_from=18)
        [plan], overflow = method.plans(view)
        found.append((plan.slots.tolist(), overflow.tolist()))
        # 20 slots beside the window, of the answer's 18 candidates all
        assert set(range(18, 36)) <= set(plan.slots[0, 0, 0].tolist())
    assert found[0] == found[1]
