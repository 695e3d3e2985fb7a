"""Eviction methods by name. A new method is one file and one row of `METHODS`."""

from __future__ import annotations

from dataclasses import fields

from ..errors import KvreproError, UnknownNameError
from .base import EvictionMethod
from .dynts import DynTSMethod
from .full import FullMethod
from .random import RandomMethod
from .recency import QuestionWindowMethod, WindowMethod
from .schedule import Schedule
from .views import EvictionView, StepView

__all__ = ["METHODS", "EvictionMethod", "EvictionView", "Schedule", "StepView", "create_method", "method_class"]

METHODS: dict[str, type[EvictionMethod]] = {
    cls.name: cls for cls in (FullMethod, WindowMethod, QuestionWindowMethod, RandomMethod, DynTSMethod)
}

# share of the budget that the window takes, and ratio, when a caller names neither (R1-Qwen's, METHODS.md 4.2)
DEFAULT_WINDOW_SHARE = 0.4
DEFAULT_RATIO = 0.4


def method_class(name: str) -> type[EvictionMethod]:
    """Look a method up.

    Raises:
        UnknownNameError: no such method; lists the known ones.
    """
    if name not in METHODS:
        raise UnknownNameError("method", name, METHODS)
    return METHODS[name]


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
    if cls is FullMethod:
        if budget is not None:
            raise KvreproError(f"method 'full' never evicts, so budget={budget} would mean nothing; leave it out")
        return FullMethod(**options)
    if budget is None:
        raise KvreproError(f"method {cls.name!r} needs a budget in tokens, for example budget=256")
    if ratio is None and evict_every is None:
        ratio = DEFAULT_RATIO
    window = int(DEFAULT_WINDOW_SHARE * budget) if window is None else window
    return cls(schedule=Schedule(budget, window, ratio, evict_every or 1), **options)
