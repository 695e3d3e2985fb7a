"""What a method class says about itself, completed and checked; its options, also read from source without torch."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from ..checks import typed
from ..errors import KvreproError, UnknownNameError, check_known
from .learned.folder import LEARNED

NEEDS = (*LEARNED, "separators", "trace")
ATTENTION = ("none", "queries", "step")
# options of these types can come from a file or a command line, and are checked; others are objects
SCALARS = {t.__name__: t for t in (bool, int, float, str)}
# hooks of version 0.1 that are called otherwise now: under the old name nobody would call them
RENAMED = {"moved": "after_compact"}
# names are parts of folders, whose names file systems bound
NAME_FORM, NAME_HINT = r"[\w-]{1,60}", "of letters, digits, _ and -, at most 60 characters"
_HERE = "kvrepro.methods"


def declare(cls: type) -> None:
    """Give a new method class its own `name` and `source` where it states none, and check what it states.

    Both would otherwise be the parent's, and numbers would be reported under another method's name. Raises
    `KvreproError` for a class attribute of the wrong type or form, a switch without its type, a hook's former name, or
    an unknown need.
    """
    own = vars(cls)
    if "name" not in own:
        cls.name = default_name(cls.__name__)
    if "source" not in own:
        cls.source = f"{cls.__module__}.{cls.__qualname__}"
    for what, form in (("name", NAME_FORM), ("source", r".+"), ("state", r".+")):
        value = getattr(cls, what)
        if not isinstance(value, str) or not re.fullmatch(form, value):
            hint = f" {NAME_HINT}" if what == "name" else ""
            raise KvreproError(f"class {cls.__name__}: {what}={value!r}, expected a text{hint}")
    _check_needs(f"class {cls.__name__}", cls.needs)
    check_known(f"need of method class {cls.__name__}", NEEDS, *cls.needs)
    check_known(f"attention of method class {cls.__name__}", ATTENTION, cls.attention)
    for former in RENAMED.keys() & own.keys():
        raise KvreproError(f"class {cls.__name__} defines {former}, which is never called: it is {RENAMED[former]} now")
    _check_limits_declared(cls)
    bare = [f.name for f in fields(cls) if f.name in own and f.name not in inspect.get_annotations(cls)]
    if bare:
        raise KvreproError(
            f"class {cls.__name__}: {bare[0]} = {own[bare[0]]!r} has no type, so the dataclass ignores it; write "
            f"`{bare[0]}: {type(own[bare[0]]).__name__} = {own[bare[0]]!r}`"
        )


def _check_needs(of: str, needs: object) -> None:
    if not isinstance(needs, tuple | list) or not all(isinstance(need, str) for need in needs):
        raise KvreproError(f"{of}: needs={needs!r}, expected a tuple such as ('predictor',)")


def default_name(class_name: str) -> str:
    """What a method class is called that states no name: `KeyNormMethod` is `key_norm`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", class_name).lower().removesuffix("_method")


def _check_limits_declared(cls: type) -> None:
    """Refuse `limits` that are no mapping, or that hold something else than options of the class."""
    limits = vars(cls).get("limits", {})
    if not isinstance(limits, Mapping):
        raise KvreproError(
            f"class {cls.__name__}: limits={limits!r}, expected a mapping such as {{'strength': '[0, 1]'}}; an option "
            "needs another name"
        )
    known = {f.name for f in fields(cls)} | inspect.get_annotations(cls).keys()
    for name in limits:
        if name not in known and not hasattr(cls, name):
            raise UnknownNameError(f"option in the limits of method class {cls.__name__}", name, known)


def check_limits(method: object) -> None:
    """Raise `KvreproError` for an option beyond the `limits` of its class or of those above."""
    for cls in type(method).__mro__:
        for name, allowed in vars(cls).get("limits", {}).items():
            value = getattr(method, name)
            if value is None:
                continue
            if isinstance(allowed, tuple) and value not in allowed:
                raise KvreproError(f"{name}={value!r}: known are {', '.join(allowed)}")
            if isinstance(allowed, int) and value < allowed:
                raise KvreproError(f"{name}={value}: must be at least {allowed}")
            if isinstance(allowed, str) and not _lies_in(value, allowed):
                raise KvreproError(f"{name}={value}: must lie in {allowed}")


def _lies_in(value: float, interval: str) -> bool:
    """Whether a number lies in an interval such as `[0, 1]` or `(0, 1]`."""
    low, high = map(float, interval[1:-1].split(","))
    ends = {low: interval[0] == "[", high: interval[-1] == "]"}
    return low <= value <= high and ends.get(value, True)


def option_types(cls: type) -> dict[str, str]:
    """Options of a method class, each with its declared type as text."""
    kinds = {f.name: f.type for f in fields(cls) if f.name != "schedule"}
    return {n: k if isinstance(k, str) else k.__name__ if isinstance(k, type) else str(k) for n, k in kinds.items()}


@dataclass(frozen=True)
class Declared:
    """What the source of a method class says.

    Attributes:
        name: the class's own; None where it states none.
        needs: its own, else those of its base.
        options: as `option_types`, those of its bases first.
        bases: classes of the package that it is or derives from, as in `METHODS`; none for what is no method.
    """

    name: str | None
    needs: tuple[str, ...]
    options: dict[str, str]
    bases: tuple[str, ...]


@cache
def declared_options(target: str) -> dict[str, str]:
    """`option_types` of a method of the package (`target` as in `METHODS`), read from its source, so without torch."""
    return _read_target(target).options


@cache
def _read_target(target: str) -> Declared:
    module, name = target.split(":")
    found = read_class(Path(__file__).parent / f"{module}.py", name)
    return Declared(found.name, found.needs, found.options, (target, *found.bases))


def read_class(path: Path, name: str) -> Declared:
    """Read a method class from a file's source; its bases lie in the same file or in this package.

    Raises:
        SyntaxError: the file is no Python.
        KvreproError: it has no such class at its top level, a base lies elsewhere, `name` or `needs` is no literal, or
            `needs` no tuple of names.
    """
    tree = ast.parse(path.read_bytes())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if name not in classes:
        raise UnknownNameError(f"class of {path}", name, classes)
    needs: tuple[str, ...] = ()
    options: dict[str, str] = {}
    bases: tuple[str, ...] = ()
    # as Python asks them: the first one has the last word
    for base in reversed(classes[name].bases):
        text = ast.unparse(base)
        if text == "object":
            continue
        # a class of the file is a base of those below it
        is_near = text in classes and classes[text].lineno < classes[name].lineno
        if is_near and path.parent != Path(__file__).parent:
            parent = read_class(path, text)
        else:
            parent = _read_target(f"{path.stem}:{text}" if is_near else _target(path, name, text, tree))
        needs, bases = parent.needs or needs, parent.bases + bases
        options |= parent.options
    stated: dict[str, Any] = {}
    for line in classes[name].body:
        if isinstance(line, ast.AnnAssign):
            targets = [line.target]
            # an annotation such as `a.b: int` declares no field
            if isinstance(line.target, ast.Name) and "ClassVar" not in (kind := ast.unparse(line.annotation)):
                options[line.target.id] = kind
        else:
            targets = line.targets if isinstance(line, ast.Assign) else []
        for target in targets:
            if isinstance(target, ast.Name) and target.id in ("name", "needs") and line.value is not None:
                stated[target.id] = _literal(path, name, target.id, line.value)
    options.pop("schedule", None)
    _check_needs(f"{path}: class {name}", stated.get("needs", needs))
    return Declared(stated.get("name"), tuple(stated.get("needs", needs)), options, bases)


def _literal(path: Path, cls: str, what: str, value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError) as error:
        raise KvreproError(
            f"{path}: class {cls}: `{what}` must be written out, so that it can be read without running the file; "
            f"given {ast.unparse(value)}"
        ) from error


def _target(path: Path, cls: str, base: str, tree: ast.Module) -> str:
    """A base class as in `METHODS`, from the name that the file calls it by."""
    full = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full |= {a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            # the package's own files say `from .base`
            module = f"{_HERE}.{node.module}" if node.level else node.module
            full |= {a.asname or a.name: f"{module}.{a.name}" for a in node.names}
    first, dot, rest = base.partition(".")
    dotted = full.get(first, first) + dot + rest
    module, _, found = dotted.replace("kvrepro.EvictionMethod", f"{_HERE}.base.EvictionMethod").rpartition(".")
    if not module.startswith(f"{_HERE}.") or not (Path(__file__).parent / f"{module.rpartition('.')[2]}.py").is_file():
        raise KvreproError(
            f"{path}: class {cls}: its base {base} is neither in this file nor a method of kvrepro (a method derives "
            "from kvrepro.EvictionMethod); the file alone says what its cells are"
        )
    return f"{module.removeprefix(f'{_HERE}.')}:{found}"


def checked_options(method: str, options: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    """Options of a method, each of its declared type, from `option_types` or `declared_options`; else
    `KvreproError`.
    """
    checked = {}
    for name, value in options.items():
        check_known(f"option of method {method}", known, name)
        kind = SCALARS.get(known[name].removesuffix(" | None"))
        allowed = kind if kind is None or " | None" not in known[name] else kind | None
        checked[name] = value if kind is None else typed(f"option {name} of method {method}", value, allowed)
    return checked
