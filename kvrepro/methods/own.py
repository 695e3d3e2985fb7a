"""Methods of a user's own by reference, `path/to/file.py:Class`: what the file says, and the class itself.

Name, needs and options are read from the source, so that lists, profiles and cell ids run nobody's code and load no
torch; the file is executed where the method is built, which is also what a plan does to know its sizes.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import traceback
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ..errors import KvreproError
from .declaration import NAME_FORM, NAME_HINT, Declared, default_name, read_class

if TYPE_CHECKING:
    from .base import EvictionMethod


@dataclass(frozen=True)
class OwnMethod:
    """What the source of a class of a user's own says.

    Attributes:
        name: what tables and folders call it.
        needs: what it reads beside the weights.
        options: by name the declared type, as text.
        bases: classes of the package that it derives from, as in `METHODS`.
        content: class and SHA-256 of the file; the file's place does not count.
    """

    name: str
    needs: tuple[str, ...]
    options: Mapping[str, str]
    bases: tuple[str, ...]
    content: str


def is_reference(method: str) -> bool:
    """Whether a text names a class in a file, and no method of the package."""
    return ":" in method or method.endswith(".py")


def absolute_method(method: str, folder: Path | None = None) -> str:
    """A reference with an absolute path, so that it means the same everywhere; a name of the package as it is.

    Args:
        folder: where a relative path begins; None is the current folder.
    """
    if not is_reference(method):
        return method
    path, cls = _parts(method)
    path = (folder or Path.cwd()) / path
    # a link stays one: what it leads to need not be called .py
    return f"{path.parent.resolve() / path.name}:{cls}"


def own_method(reference: str) -> OwnMethod:
    """Read the class that a reference names, without running its file.

    Raises:
        KvreproError: no such file or class, a file that is no Python, a class that is no `EvictionMethod`, or one whose
            source does not say its name and needs.
    """
    path, cls = _parts(reference)
    try:
        found = path.stat()
        return _read(path, cls, (found.st_size, found.st_mtime_ns))
    except OSError as error:
        raise KvreproError(f"method {reference}: {path} cannot be read ({error.strerror})") from error


def own_class(reference: str) -> type[EvictionMethod]:
    """The class that a reference names. The file is executed, once for each content; what it prints goes to stderr.

    Raises:
        KvreproError: as `own_method`; the file fails as it is executed, with its line; or the class is called
            otherwise, or needs something else, than its source says.
    """
    (path, cls), own = _parts(reference), own_method(reference)
    found = getattr(_executed(path, own.content.rpartition(" ")[2]), cls, None)
    if (name := getattr(found, "name", None)) != own.name:
        raise KvreproError(f"{path}: class {cls} calls itself {name!r}, its source says {own.name!r}")
    if (needs := tuple(found.needs)) != own.needs:
        # the cell's name rests on what the source says
        raise KvreproError(
            f"{path}: class {cls} needs {needs}, its source says {own.needs}: write `needs` out in the class itself"
        )
    return found


def _parts(reference: str) -> tuple[Path, str]:
    path, _, cls = reference.rpartition(":")
    if not path.endswith(".py") or not cls.isidentifier():
        example = f"{reference}:MyMethod" if reference.endswith(".py") else "my_method.py:MyMethod"
        raise KvreproError(f"method {reference!r}: a class of your own is named FILE.py:CLASS, such as {example}")
    # of an unknown user `~` stays, and is no file
    return Path(os.path.expanduser(path)), cls


@cache
def _read(path: Path, cls: str, stamp: tuple[int, int]) -> OwnMethod:
    """`stamp`: what changes with the file's content; the answer is remembered for it."""
    data = path.read_bytes()
    try:
        found: Declared = read_class(path, cls)
    except SyntaxError as error:
        raise KvreproError(f"{path}, line {error.lineno}: {type(error).__name__}: {error.msg}") from error
    except KvreproError:
        raise
    except ValueError as error:
        raise KvreproError(f"{path}: {error}") from error
    if not found.bases:
        raise KvreproError(f"{path}: class {cls} is no subclass of kvrepro.EvictionMethod")
    name = default_name(cls) if found.name is None else found.name
    if not isinstance(name, str) or not re.fullmatch(NAME_FORM, name):
        raise KvreproError(f"{path}: class {cls}: name={name!r}, expected a text {NAME_HINT}")
    return OwnMethod(name, found.needs, found.options, found.bases, f"{cls} {hashlib.sha256(data).hexdigest()}")


@cache
def _executed(path: Path, digest: str) -> ModuleType:
    """The file as a module of its own name, which no other content has."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise KvreproError(f"{path} changed while it was read: start again")
    module = ModuleType(f"own_{path.stem}_{digest[:8]}")
    module.__file__ = str(path)
    # dataclasses look their module up
    sys.modules[module.__name__] = module
    try:
        # standard output belongs to the command, whose JSON it may be
        with redirect_stdout(sys.stderr):
            exec(compile(data, str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        what = str(error) if isinstance(error, KvreproError) else f"{type(error).__name__}: {error}"
        raise KvreproError(f"{path}, line {lines[-1] if lines else '?'}: {' '.join(what.split())}") from error
    return module
