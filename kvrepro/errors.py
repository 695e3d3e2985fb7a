"""Errors that a user can cause and mend; their text says what was given, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class KvreproError(ValueError):
    """A request that cannot be met as given. The command line prints the message and exits with 2."""


class UnknownNameError(KvreproError):
    """A name that is not in its table."""

    def __init__(self, kind: str, given: object, known: Iterable[str]):
        names = sorted(known)
        super().__init__(f"unknown {kind} {given!r}; known: {', '.join(names)}{did_you_mean(given, names)}")


def check_known(kind: str, known: Iterable[str], *names: object) -> None:
    """Raise `UnknownNameError` for the first of the names that is not known."""
    for name in names:
        if name not in known:
            raise UnknownNameError(kind, name, known)


class RunError(RuntimeError):
    """A run that was asked for correctly and failed: full disk, broken records. Exit code 1."""


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """` (did you mean ...?)` with the one known name that is spelled most like `given`, empty where none is."""
    by_spelling = {name.casefold(): name for name in known}
    close = get_close_matches(str(given).casefold(), by_spelling, n=1)
    return f" (did you mean {by_spelling[close[0]]!r}?)" if close else ""
