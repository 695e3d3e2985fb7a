"""Numbers from outside, checked before anything is computed from them: arrays, pairs, fractions, counts."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from ..errors import KvreproError


def as_floats(values: Any, name: str = "values") -> np.ndarray:
    """Booleans or numbers in lists, tuples, arrays, tensors or series, as a float array of the same shape.

    Raises: KvreproError for text, mappings, rows of unequal length, and anything that is missing or not finite.
    """
    if isinstance(values, Mapping):
        raise KvreproError(f"{name} are a mapping; expected a list or an array of numbers")
    try:
        given = np.asarray(values)
        # of text and complex numbers numpy would make floats too
        texts = given.dtype.kind == "O" and any(isinstance(value, str | bytes) for value in given.flat)
        if texts or given.dtype.kind not in "biufO":
            raise TypeError(f"they hold {given.dtype}")
        array = given.astype(float)
    except (TypeError, ValueError) as error:
        raise KvreproError(f"{name} are no array of numbers or booleans ({error}); expected one a problem") from error
    if missing := int((~np.isfinite(array)).sum()):
        raise KvreproError(f"{missing} of {array.size} {name} are not finite; score them first")
    return array


def check_values(values: Any, least: int = 1, name: str = "values") -> np.ndarray:
    """Per-problem values as a float array [problems]; empty, missing and non-finite ones are errors, never zero."""
    array = as_floats(values, name)
    if array.ndim != 1 or array.size < least:
        raise KvreproError(f"got {name} of shape {array.shape}; expected one value per problem, at least {least}")
    return array


def check_matrix(values: Any, name: str = "scores") -> np.ndarray:
    """Values as a float array [problems, samples]: at least two problems with at least one sample each."""
    array = as_floats(values, name)
    if array.ndim != 2 or array.shape[0] < 2 or array.shape[1] < 1:
        raise KvreproError(f"got {name} of shape {array.shape}; expected [problems >= 2, samples >= 1]")
    return array


def check_fraction(value: Any, name: str) -> float:
    """A number strictly between 0 and 1: a fraction, not a percentage."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < 1:
        raise KvreproError(f"{name}={value!r}; expected a fraction between 0 and 1 such as 0.95")
    return float(value)


def check_count(value: Any, name: str, least: int = 1) -> int:
    """A whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise KvreproError(f"{name}={value!r}; expected a whole number of at least {least}")
    return int(value)


def paired_values(first: Any, second: Any) -> tuple[np.ndarray, np.ndarray]:
    """The values [problems] of two cells in one order of problems; see `scores.statistics.paired_comparison`."""
    sides = dict(zip(("first", "second"), _aligned(first, second), strict=True))
    one, other = (check_values(_problem_means(side, name), 2, name) for name, side in sides.items())
    if one.size != other.size:
        raise KvreproError(
            f"first has {one.size} problems and second {other.size}; expected the same problems in the same order"
        )
    return one, other


def _aligned(*sides: Any) -> list[Any]:
    """Both sides in one order of problems: that of the ids where there are some."""
    if all(hasattr(side, "to_dict") and hasattr(side, "index") for side in sides):
        if not all(series.index.is_unique for series in sides):
            raise KvreproError("a series names a problem twice in its index; expected one value per problem")
        sides = [series.to_dict() for series in sides]
    named = [isinstance(side, Mapping) for side in sides]
    if not any(named):
        return sides
    if not all(named):
        raise KvreproError("one side names its problems and the other does not; expected two mappings or two lists")
    if only := sorted(set(sides[0]) ^ set(sides[1]), key=str):
        raise KvreproError(
            f"the cells do not have the same problems: {len(only)} are in one only (first: {only[:3]}). "
            "Compare cells of one benchmark, or select the shared problems."
        )
    # the sign flips of a permutation must not depend on the order of a mapping
    return [[side[key] for key in sorted(sides[0], key=str)] for side in sides]


def _problem_means(values: Any, name: str) -> Any:
    """Values as they are, or where there is a list of samples for some problem the mean of each problem."""
    if isinstance(values, list | tuple) and any(np.ndim(value) for value in values):
        return [as_floats(value, name).mean() if np.size(value) else np.nan for value in values]
    return check_matrix(values, name).mean(axis=1) if np.ndim(values) == 2 else values
