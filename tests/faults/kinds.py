"""Every kind of fault, by name: stops, and acts on results and surroundings between runs or while a grid runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from . import damage, stops, surroundings
from .lab import Lab

Fault = Callable[[Lab], None]


def between_runs(lab: Lab, act: Fault) -> None:
    """After a grid that was stopped in the middle, or has ended."""
    if lab.draw.random() < 0.7:
        lab.part_done()
    else:
        lab.wait(lab.grid())
    act(lab)


def while_it_runs(lab: Lab, act: Fault) -> None:
    """Beside a grid that has made some cells; it or the next one mends what can be mended."""
    grid = lab.grid()
    lab.until_finished(2, grid)
    lab.keep()
    act(lab)
    grid.codes = stops.FAILED_OR_NOT
    lab.wait(grid)


ACTS = {**damage.ACTS, **surroundings.ACTS}
KINDS: dict[str, Fault] = {
    **stops.KINDS,
    **surroundings.DISKS,
    **{name: partial(between_runs, act=act) for name, act in surroundings.BETWEEN.items()},
    **{f"{name} between runs": partial(between_runs, act=act) for name, act in ACTS.items()},
    **{f"{name} while a grid runs": partial(while_it_runs, act=act) for name, act in ACTS.items()},
}
