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
        array = np.asarray(values)
        is_text = array.dtype.kind == "O" and any(isinstance(value, str | bytes) for value in array.flat)
        if is_text or array.dtype.kind not in "biufO":
            raise KvreproError(f"{name} hold {array.dtype} such as {_first(array)!r}; expected numbers or booleans")
        array = array.astype(float)
    except KvreproError:
        raise
    except (TypeError, ValueError) as error:
        raise KvreproError(f"{name} are no array of numbers ({error}); expected one number per problem") from error
    missing = int((~np.isfinite(array)).sum())
    if missing:
        raise KvreproError(f"{missing} of {array.size} {name} are not finite; score them first")
    return array


def _first(array: np.ndarray) -> Any:
    return next(iter(array.flat), None)


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
    sides = zip(("first", "second"), _aligned(first, second), strict=True)
    one, other = (_problem_values(values, name) for name, values in sides)
    if one.size != other.size:
        raise KvreproError(
            f"first has {one.size} problems and second {other.size}; expected the same problems in the same order"
        )
    return one, other


def _aligned(first: Any, second: Any) -> tuple[Any, Any]:
    """Both sides in one order of problems: that of the ids where there are some."""
    is_series = [hasattr(side, "to_dict") and hasattr(side, "index") for side in (first, second)]
    if all(is_series) and first.index.is_unique and second.index.is_unique:
        first, second = first.to_dict(), second.to_dict()
    elif all(is_series):
        raise KvreproError("a series names a problem twice in its index; expected one value per problem")
    named = [isinstance(side, Mapping) for side in (first, second)]
    if not any(named):
        return first, second
    if not all(named):
        raise KvreproError("one side names its problems and the other does not; expected two mappings or two lists")
    if only := [key for key in (*first, *second) if (key in first) != (key in second)]:
        raise KvreproError(
            f"the cells do not have the same problems: {len(only)} are in one only (first: {only[:3]}). "
            "Compare cells of one benchmark, or select the shared problems."
        )
    # the sign flips of a permutation must not depend on the order of a mapping
    keys = sorted(first, key=str)
    return [first[key] for key in keys], [second[key] for key in keys]


def _problem_values(values: Any, name: str) -> np.ndarray:
    """One value per problem; a problem's samples are replaced by their mean."""
    if isinstance(values, list | tuple) and any(np.ndim(value) for value in values):
        values = [as_floats(value, name).mean() if np.size(value) else np.nan for value in values]
    elif np.ndim(values) == 2:
        values = check_matrix(values, name).mean(axis=1)
    return check_values(values, least=2, name=name)
