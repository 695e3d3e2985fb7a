"""Errors that a user can cause and mend; their text says what was given, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Iterable


class KvreproError(ValueError):
    """A request that cannot be met as given. The command line prints the message and exits with 2."""


class UnknownNameError(KvreproError):
    """A name that is not in its table."""

    def __init__(self, kind: str, given: object, known: Iterable[str]):
        super().__init__(f"unknown {kind} {given!r}; known: {', '.join(sorted(known))}")


class RunError(RuntimeError):
    """A run that was asked for correctly and failed: full disk, broken records. Exit code 1."""
