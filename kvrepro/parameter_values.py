"""Values of parameters as they come from Python, YAML, papermill or a command line: their types, and JSON texts."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, get_args, get_origin

from .errors import KvreproError


def typed(what: str, value: Any, expected: Any) -> Any:
    """`value` as the declared type: integers pass as floats, numpy's numbers as Python's, nothing else is converted.

    Args:
        what: how a message calls the value, such as `parameter budget`.
        expected: a type or a union of types.

    Raises:
        KvreproError: names the value, its type and what was expected.
    """
    allowed = get_args(expected) if get_origin(expected) is types.UnionType else (expected,)
    if value is None and type(None) in allowed:
        return None
    if isinstance(value, bool):
        if bool in allowed:
            return value
    elif isinstance(value, Integral) and int in allowed:
        return int(value)
    elif isinstance(value, Real) and float in allowed:
        return float(value)
    elif value is not None and isinstance(value, tuple(t for t in allowed if t not in (type(None), int, float))):
        return value
    wanted = " or ".join(t.__name__ for t in allowed if t is not type(None))
    hint = " (in YAML write 1.0e-3, not 1e-3, for a float)" if isinstance(value, str) and float in allowed else ""
    raise KvreproError(f"{what}={value!r} is {type(value).__name__}, expected {wanted}{hint}")


def as_mapping(what: str, value: Any) -> dict | None:
    """A mapping as a dict, also from its JSON text, the only form that papermill's command line can pass.

    Raises:
        KvreproError: neither a mapping nor the JSON text of one.
    """
    if value is None or isinstance(value, Mapping):
        return None if value is None else dict(value)
    expected = 'expected a mapping or its JSON text, such as {"pin_question": true}'
    if not isinstance(value, str):
        raise KvreproError(f"{what}={value!r} is {type(value).__name__}, {expected}")
    try:
        found = json.loads(value)
    except json.JSONDecodeError as error:
        raise KvreproError(f"{what}={value!r} is no JSON ({error}), {expected}") from error
    if not isinstance(found, dict):
        raise KvreproError(f"{what}={value!r} is JSON of {type(found).__name__}, {expected}")
    return found
