"""Which cells of a profile are done, running, failed or left, and how long the rest may take."""

from __future__ import annotations

from dataclasses import dataclass

from .config import CellConfig
from .folder import CellFolder, read_manifest
from .profiles import Profile


@dataclass(frozen=True)
class CellState:
    """State of one cell: `done`, `running`, `failed` or `left`."""

    cell_id: str
    state: str
    samples: int = 0
    wall_s: float | None = None


def cell_state(profile: str, config: CellConfig) -> CellState:
    """Look at the cell's files; nothing is guessed from the time or from other cells."""
    folder = CellFolder.of(profile, config)
    if folder.is_complete:
        manifest = read_manifest(folder.path)
        return CellState(config.cell_id, "done", manifest["n_records"], manifest["wall_s"])
    state = "running" if folder.is_running else "failed" if folder.failed_notebook.is_file() else "left"
    return CellState(config.cell_id, state, folder.n_replies)


def profile_state(profile: Profile) -> list[CellState]:
    """State of every cell."""
    return [cell_state(profile.name, config) for config in profile.cells]


def remaining_s(states: list[CellState], workers: int) -> float | None:
    """Seconds left, from the mean of the finished cells and the number of workers; None before the first is done."""
    times = [s.wall_s for s in states if s.wall_s is not None]
    if not times:
        return None
    open_cells = sum(s.state != "done" for s in states)
    return sum(times) / len(times) * open_cells / max(1, workers)
