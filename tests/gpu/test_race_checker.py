"""Every case of every kernel, its programs in random order: no race, no address outside; planted faults are found."""

from __future__ import annotations

import json
from functools import cache

import pytest
from kvrepro.kernels.checks import STEMS

from ..kernels.interpreter import case_ids
from .happens_before import ATOMIC, READ, WRITE, Accesses
from .settings import interpreted, needs_interpreter

PLANTED = {
    "neighbours": "one program reads what another one writes",
    "one address": "one program writes what another one writes",
    "twice": "one store writes an address twice",
    "beyond": "2 of the addresses of one store lie outside",
    "one row twice": "one program writes what another one writes",
    "a slot beyond": "80 of the addresses of one load lie outside",
    "joined without an atomic": "one program reads what another one writes",
    "joined after a relaxed atomic": "one program writes what another one reads",
    "joined after a release": "one program writes what another one reads",
    "joined without a barrier": "publishes stores of other threads without a barrier",
    "joined by the last to arrive": None,
    "two rows": None,
}


@cache
def report() -> dict:
    return json.loads(interpreted("race_checker"))


@needs_interpreter
@pytest.mark.parametrize(("stem", "case"), [(stem, case) for stem in STEMS for case in case_ids(stem)])
def test_programs_of_a_kernel_do_not_race(stem, case):
    (found,) = [row for row in report()["cases"] if (row["stem"], row["case"]) == (stem, case)]
    assert found["faults"] == [] and (found["programs"] > 0 or case.startswith("rows0-"))
    assert found["ok"], f"errors {found['errors']}, limit {found['limit']} {found['failure']}"


@needs_interpreter
@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_found_and_nothing_else(name):
    faults = report()["planted"][name]
    if PLANTED[name] is None:
        assert faults == []
    else:
        assert any(PLANTED[name] in fault for fault in faults), faults


def ordered(*steps: tuple) -> list[str]:
    """Races of programs that take these steps: `(program, kind or how an atomic orders, address)`."""
    import numpy as np

    accesses, program = Accesses(), None
    for who, what, address in steps:
        if who != program:
            accesses.start(who)
            program = who
        at = np.array([address], np.uint64)
        if isinstance(what, str):
            accesses.atomic(at, "acquires" in what, "releases" in what)
        else:
            accesses.add(what, at)
    return [what for what, *_ in accesses.races()]


BOTH = "acquires and releases"


def test_what_is_ordered_and_what_is_not():
    assert ordered((0, WRITE, 8), (0, READ, 8), (1, READ, 16)) == []
    assert ordered((0, READ, 8), (1, READ, 8)) == []
    assert ordered((0, READ, 8), (1, WRITE, 8)) == ["reads what another one writes"]
    assert ordered((0, WRITE, 8), (0, BOTH, 1), (1, BOTH, 1), (1, READ, 8)) == []
    # what follows the release is not published, what precedes the acquire not ordered, another address orders nothing
    assert ordered((0, BOTH, 1), (0, WRITE, 8), (1, BOTH, 1), (1, READ, 8)) == ["writes what another one reads"]
    assert ordered((0, WRITE, 8), (0, BOTH, 1), (1, READ, 8), (1, BOTH, 1)) == ["writes what another one reads"]
    assert ordered((0, WRITE, 8), (0, BOTH, 1), (1, BOTH, 2), (1, READ, 8)) == ["writes what another one reads"]
    # an order passed on by a third program
    assert ordered((0, WRITE, 8), (0, BOTH, 1), (1, BOTH, 1), (1, BOTH, 2), (2, BOTH, 2), (2, READ, 8)) == []
    assert ordered((0, ATOMIC, 8), (1, ATOMIC, 8)) == []
    assert ordered((0, ATOMIC, 8), (1, WRITE, 8)) == ["updates what another one writes"]
