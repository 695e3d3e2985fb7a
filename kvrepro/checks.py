"""Parameters from outside, checked before anything is computed from them: their types, and JSON texts."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, get_args, get_origin, get_type_hints

from .errors import KvreproError, check_known


def typed(what: str, value: Any, expected: Any) -> Any:
    """`value` as the declared type: integers pass as floats, numpy's numbers as Python's, lists as tuples; no more.

    Args:
        what: how a message calls the value, such as `parameter budget`.
        expected: a type or a union of types.

    Raises:
        KvreproError: names the value, its type and what was expected.
    """
    kinds = get_args(expected) if get_origin(expected) is types.UnionType else (expected,)
    allowed = tuple(get_origin(kind) or kind for kind in kinds)
    if value is None and type(None) in allowed:
        return None
    if isinstance(value, list) and tuple in allowed:
        return tuple(value)
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


def changed_fields(what: str, options: Any, values: Mapping[str, Any]) -> Any:
    """A copy of a dataclass with some fields changed, each of its declared type.

    Args:
        what: how a message calls the options, such as `traces`.

    Raises:
        UnknownNameError: a field that does not exist.
        KvreproError: a value of the wrong type.
    """
    hints = get_type_hints(type(options))
    check_known("setting", hints, *values)
    return replace(options, **{name: typed(f"{what}.{name}", value, hints[name]) for name, value in values.items()})


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
