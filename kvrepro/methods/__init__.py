"""Eviction methods by name. A new method is one file and one row of `METHODS`.

Classes are imported when they are asked for: listing names and checking parameters must not load torch.
"""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import KvreproError, UnknownNameError
from ..schedule import Schedule

if TYPE_CHECKING:
    from .base import EvictionMethod

# name -> module and class; the order is the order of lists and tables
METHODS: dict[str, str] = {
    "full": "full:FullMethod",
    "window": "recency:WindowMethod",
    "question_window": "recency:QuestionWindowMethod",
    "random": "random:RandomMethod",
    "dynts": "dynts:DynTSMethod",
}

# share of the budget that the window takes, and ratio, when a caller names neither (R1-Qwen's, METHODS.md 4.2)
DEFAULT_WINDOW_SHARE = 0.4
DEFAULT_RATIO = 0.4


def check_method_name(name: str) -> None:
    """Raise `UnknownNameError`, which lists the known methods, unless `name` is one of them."""
    if name not in METHODS:
        raise UnknownNameError("method", name, METHODS)


def method_class(name: str) -> type[EvictionMethod]:
    """The class behind a name.

    Raises:
        UnknownNameError: no such method; lists the known ones.
    """
    check_method_name(name)
    module, cls = METHODS[name].split(":")
    return getattr(import_module(f".{module}", __name__), cls)


def create_schedule(
    method: str, budget: int | None, window: int | None = None, ratio: float | None = None,
    evict_every: int | None = None,
) -> Schedule | None:  # fmt: skip
    """The schedule of a method under a budget, None for `full`; defaults are filled in here.

    Raises:
        KvreproError: sizes that do not fit together, a budget for `full`, or none for another method.
    """
    if method == "full":
        given = {"budget": budget, "window": window, "ratio": ratio, "evict_every": evict_every}
        for name, value in given.items():
            if value is not None:
                raise KvreproError(f"method 'full' never evicts, so {name}={value} would mean nothing; leave it out")
        return None
    if budget is None:
        raise KvreproError(f"method {method!r} needs a budget in tokens, for example budget=256")
    if ratio is None and evict_every is None:
        ratio = DEFAULT_RATIO
    window = int(DEFAULT_WINDOW_SHARE * budget) if window is None else window
    return Schedule(budget, window, ratio, 1 if evict_every is None else evict_every)


def create_method(
    method: str | type[EvictionMethod], budget: int | None = None, window: int | None = None,
    ratio: float | None = None, evict_every: int | None = None, **options: object,
) -> EvictionMethod:  # fmt: skip
    """Build a method under a budget.

    Args:
        method: a name of `METHODS`, or a subclass of `EvictionMethod` of your own.
        budget: slots per row; must be None for `full` and given for every other method.
        window: local window, slots; default 40 % of the budget.
        ratio: DynTS' share of candidates kept; default 0.4 unless `evict_every` is given.
        evict_every: tokens between evictions, for a budget that is what remains after one.
        options: the method's own fields.

    Raises:
        KvreproError: an option that the method does not have, or sizes that do not fit together.
    """
    cls = method_class(method) if isinstance(method, str) else method
    known = {f.name for f in fields(cls)} - {"schedule"}
    for name in options:
        if name not in known:
            raise UnknownNameError(f"option of method {cls.name}", name, known)
    return cls(schedule=create_schedule(cls.name, budget, window, ratio, evict_every), **options)
