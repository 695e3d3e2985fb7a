"""What a grid shows while it runs: a line per finished cell, with the time left, above a bar on a terminal."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from ..bars import duration
from ..claims import is_held
from ..runs.folder import CellFolder, read_manifest
from ..runs.parts import part_claims
from ..runs.past_cells import whole_s
from ..runs.profiles import Profile
from ..runs.throughput import Panel
from .folder import GridFolder
from .progress import LiveGrid, estimate, progress, side_by_side

# without a guess of tqdm's own: cells differ by far in what they take
_BAR = "{desc} {bar} {n_fmt}/{total_fmt} in {elapsed}{postfix}"


class Display:
    """Cells and panels of a grid on the error output; used as a block, `look` again and again.

    Args:
        profile: with the cells that the grid is to make.
    """

    def __init__(self, grid: GridFolder, profile: Profile):
        self.grid, self.profile = grid, profile
        self.panels = Panel.all_of(profile)
        self.total = len(profile.folders) + len(self.panels)
        self.shown: set[str] = set()
        self.n_measured = 0
        self.is_first = True

    def __enter__(self) -> Display:
        # in a log a bar would be one endless line
        is_off = not sys.stderr.isatty()
        name = f"{self.profile.name} cells"
        self.bar = tqdm(total=self.total, desc=name, bar_format=_BAR, disable=is_off, file=sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def look(self) -> None:
        """Show what has been finished since the last look."""
        states = {folder.cell_id: _state(folder) for folder in self.profile.folders}
        done = {cell for cell, state in states.items() if state == "done"}
        # marks, which Snakemake makes while it runs: whether a measurement fits its cells is not asked twice a second
        n_measured = sum(self.grid.mark(panel).is_file() for panel in self.panels)
        self._tell(done)
        if n_measured > self.n_measured:
            tqdm.write(f"throughput measured in {n_measured} of {len(self.panels)} panels", file=sys.stderr)
        self.n_measured = n_measured
        running = sum(state == "running" for state in states.values())
        text = f"{running} running, {self.total - len(done) - n_measured - running} left"
        if len(done) == len(states) and n_measured < len(self.panels):
            text += ", measuring throughput alone"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(len(done) + n_measured - self.bar.n)

    def _tell(self, done: set[str]) -> None:
        new, self.shown = [c for c in self.profile.folders if c.cell_id in done - self.shown], done | self.shown
        if not new:
            self.is_first = False
            return
        of, left = len(self.profile.folders), self._time_left() if len(done) < len(self.profile.folders) else ""
        if self.is_first:
            lines = [f"{len(new)} of {of} cells were there{left}"]
        else:
            first = len(done) - len(new) + 1
            lines = [f"{n}/{of} {_came_to(folder)}" for n, folder in enumerate(new, start=first)]
            lines[-1] += left
        self.is_first = False
        if len(done) == of and self.n_measured < len(self.panels):
            lines.append("cells are done; now their throughput, a panel at a time and alone")
        for line in lines:
            tqdm.write(line, file=sys.stderr)

    def _time_left(self) -> str:
        """As `kvrepro status` tells it."""
        grids = [LiveGrid.of(self.grid)]
        cells = progress(self.profile, (), grids)
        found = estimate(cells, side_by_side(cells, grids))
        if found.seconds is None:
            return ""
        return f"; about {duration(found.seconds)} to go" + (f", {found.untold} cells apart" if found.untold else "")


def _came_to(folder: CellFolder) -> str:
    """A finished cell in a few words."""
    manifest: dict[str, Any] = read_manifest(folder.path)
    return f"{folder.cell_id}: Pass@1 {100 * manifest['score']['pass_at_1']:.1f} %, {duration(whole_s(manifest))}"


def _state(folder: CellFolder) -> str:
    """As the cell's own, and running as well where parts of it are made."""
    state = folder.state
    if state not in ("done", "running") and any(map(is_held, part_claims(folder.partial))):
        return "running"
    return state
