"""How far a profile has come: the state of every cell, who runs it, and when the rest will be done.

Everything is read off the results, the claims beside them and a scheduler's queue, so it can be asked from any machine
and of a folder that is read-only. Loads without torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..benchmarks.table import benchmark_entry
from ..claims import Holder, holder
from ..paths import results_root
from ..runs.config import CellConfig
from ..runs.folder import MANIFEST, CellFolder, read_manifest
from ..runs.parts import part_claims
from ..runs.past_cells import PastCell, expected_seconds, whole_s
from ..runs.profiles import Profile
from ..runs.scheduling import makespan
from .executors import Job
from .folder import GridFolder

DONE, RUNNING, FAILED, QUEUED, LEFT = STATES = ("done", "running", "failed", "queued", "left")


@dataclass(frozen=True)
class Runner:
    """Who makes a cell or a part of it: `shard` such as `2/3`, None for all of it; `replies` of this part so far.

    What is not known is None: of a job that has just started only the host and the scheduler's id are.
    """

    shard: str | None
    host: str | None
    pid: int | None
    job: str | None
    since: str | None
    replies: int | None = None

    @classmethod
    def of(cls, found: Holder, shard: str | None = None, replies: int | None = None) -> Runner:
        """Whoever holds a claim."""
        return cls(shard, found.host, found.pid, found.job, found.since, replies)


@dataclass(frozen=True)
class CellProgress:
    """One cell.

    Attributes:
        state: one of `STATES`.
        samples: replies so far, of a finished cell all; None where an older manifest does not say.
        asked: replies that the cell is to have.
        wall_s: seconds that a finished cell took over all of its runs, None where they are not known.
        runners: who makes it now.
        job: the scheduler's id of a cell that waits in its queue.
        damage: why results that lie there do not count as done.
    """

    config: CellConfig
    state: str
    samples: int | None
    asked: int
    wall_s: float | None = None
    runners: tuple[Runner, ...] = ()
    job: str | None = None
    damage: str | None = None
    past: PastCell | None = None

    @property
    def left_share(self) -> float:
        """Of its replies."""
        return 1 - min(1.0, (self.samples or 0) / self.asked)


@dataclass(frozen=True)
class Estimate:
    """Seconds until all cells are done whose time can be told, None where no finished cell tells any.

    Attributes:
        from_cells: finished cells that it rests on.
        side_by_side: cells that run at once.
        untold: cells that are not done and of whose model no finished cell tells.
    """

    seconds: float | None
    from_cells: int
    side_by_side: int
    untold: int


@dataclass(frozen=True)
class LiveGrid:
    """What a grid that runs now, here or elsewhere, tells: cells that it is to make, when it began (seconds since the
    epoch, by the results' own clock), and how many run at once; None where a scheduler decides that.
    """

    cells: frozenset[str]
    began: float
    slots: int | None

    @classmethod
    def all_of(cls, profile: str) -> list[LiveGrid]:
        """Those of a profile that have written what they do."""
        return [cls.of(grid) for grid in GridFolder.all_of(profile) if grid.is_alive and grid.plan_file.is_file()]

    @classmethod
    def of(cls, grid: GridFolder) -> LiveGrid:
        """From its plan."""
        plan = grid.read_plan()
        targets = set(plan["targets"])
        slots = None if plan["executor"] else min(len(plan["gpus"] or ()) or plan["cores"], plan["cores"])
        cells = frozenset(name for name, cell in plan["cells"].items() if cell["mark"] in targets)
        return cls(cells, grid.plan_file.stat().st_mtime, slots)

    def is_to_run(self, folder: CellFolder) -> bool:
        """Whether it has yet to begin a cell that nobody runs: it shall, and has not failed at it."""
        failed = folder.failed_notebook
        is_tried = failed.is_file() and failed.stat().st_mtime >= self.began
        return folder.cell_id in self.cells and not is_tried


def progress(profile: Profile, queue: Sequence[Job], grids: Sequence[LiveGrid]) -> list[CellProgress]:
    """The cells of a profile, in its order.

    Args:
        queue: jobs of a scheduler, see `executors.queued_jobs`; those of grids in other results folders are left out.
        grids: that run now.
    """
    jobs: dict[str, Job] = {}
    here = {grid.name for grid in GridFolder.all_of(profile.name)}
    for job in queue:
        # of the parts of a cell one that runs says more than one that waits; grids elsewhere have other results
        if job.cell is not None and job.grid in here and (job.cell not in jobs or job.state == RUNNING):
            jobs[job.cell] = job
    return [
        _cell(config, folder, jobs.get(folder.cell_id), grids)
        for config, folder in zip(profile.cells, profile.folders, strict=True)
    ]


def _cell(config: CellConfig, folder: CellFolder, job: Job | None, grids: Sequence[LiveGrid]) -> CellProgress:
    asked = (config.n_problems or benchmark_entry(config.benchmark).n_problems) * config.n_samples
    if folder.is_complete:
        manifest = read_manifest(folder.path)
        past = PastCell.of_manifest(config, manifest)
        return CellProgress(config, DONE, manifest.get("n_records"), asked, whole_s(manifest), past=past)
    runners, waiting = tuple(_runners(folder)), None
    if runners:
        state = RUNNING
    elif job is not None and job.state == RUNNING:
        # it has a node and has not come to its claim yet
        state, runners = RUNNING, (Runner(None, job.host or None, None, job.id, None),)
    elif job is not None or any(grid.is_to_run(folder) for grid in grids):
        state, waiting = QUEUED, job and job.id
    else:
        state = FAILED if folder.failed_notebook.is_file() else LEFT
    return CellProgress(config, state, _replies(folder.partial), asked, None, runners, waiting, folder.damage)


def _runners(folder: CellFolder) -> Iterator[Runner]:
    if (found := holder(folder.lock)) is not None:
        yield Runner.of(found)
    for claim, part in part_claims(folder.partial).items():
        if (found := holder(claim)) is not None:
            yield Runner.of(found, str(part), _replies(folder.partial, f"-{part.name}-"))


def _replies(working: Path, of: str = "") -> int:
    """Replies that an unfinished cell has so far, all or those of a part."""
    count = 0
    for path in working.glob(f"completions{of}*.jsonl"):
        with path.open("rb") as file:
            count += sum(1 for _ in file)
    return count


def side_by_side(cells: Iterable[CellProgress], grids: Iterable[LiveGrid]) -> int:
    """Cells that run at once: devices or cores of the grids, on a scheduler what runs now; at least one."""
    running = sum(len(cell.runners) for cell in cells)
    return max(1, running, sum(grid.slots or 0 for grid in grids))


def estimate(cells: Sequence[CellProgress], n_slots: int) -> Estimate:
    """When the cells that are not done will be, `n_slots` at once, what runs first and less what it has already."""
    known = [cell.past for cell in cells if cell.past is not None]
    order = (RUNNING, QUEUED, FAILED, LEFT)
    rest = sorted((c for c in cells if c.state != DONE), key=lambda c: order.index(c.state))
    jobs, untold = [], 0
    for cell in rest:
        whole = expected_seconds(cell.config, cell.asked, known)
        if whole is None:
            untold += 1
            continue
        n_parts = max(1, len(cell.runners))
        jobs += [(whole * cell.left_share / n_parts, 1)] * n_parts
    is_told = len(jobs) > 0 or not rest
    return Estimate(makespan(jobs, n_slots) if is_told else None, len(known), n_slots, untold)


def other_cells(profile: Profile) -> int:
    """Finished cells in the profile's folder that are none of its own: of other versions, or of an edited profile."""
    root, own = results_root() / profile.name, {cell.cell_id for cell in profile.cells}
    found = root.glob(f"[!.]*/[!.]*/[!.]*/[!.]*/{MANIFEST}")
    return sum(path.parent.relative_to(root).as_posix() not in own for path in found)
