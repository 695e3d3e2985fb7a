"""Whether cells can run, asked before the first one starts: rows, weights, what their methods read, memory, disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import torch

from ..benchmarks.table import load_problems
from ..errors import KvreproError
from ..methods.learned.folder import LEARNED
from ..methods.table import method_class
from ..models.loading import check_available, default_device
from ..models.memory import GIB, check_fits
from ..models.shapes import model_config
from ..models.table import ModelEntry, model_entry
from ..paths import results_root
from .config import CellConfig
from .resolution import ResolvedCell, loaded_method, resolve_cell

ELSEWHERE = "cuda elsewhere"  # a device that is not here


def check_cells(cells: Sequence[CellConfig], device: str | None = None, *, is_here: bool = True) -> None:
    """Refuse cells that would fail, all causes at once.

    Args:
        is_here: False where another machine runs them: its GPUs and its memory are not asked for.

    Raises:
        KvreproError: a line per cause, with the cells that it stops.
    """
    from huggingface_hub.utils import logging

    device = device or (default_device() if is_here else ELSEWHERE)
    found: dict[str, list[str]] = {}
    loud = logging.get_verbosity()
    # its attempts to reach the Hub are not news: what came of them is said once, below
    logging.set_verbosity_error()
    try:
        looked: dict[tuple, str | None] = {}
        for cell in cells:
            for cause in _causes(cell, device, looked):
                found.setdefault(cause, []).append(cell.cell_id)
    finally:
        logging.set_verbosity(loud)
    if cells and not found and (cause := _full_disk(cells)):
        found[cause] = [cell.cell_id for cell in cells]
    if found:
        lines = [f"{_named(ids, len(cells))}: {cause}" for cause, ids in found.items()]
        raise KvreproError("\n".join(["nothing was started", *lines]) if len(cells) > 1 else "; ".join(found))


def _causes(cell: CellConfig, device: str, looked: dict[tuple, str | None]) -> list[str]:
    """Why a cell cannot run. `looked` keeps what was found for rows and models, which cells share."""
    entry = model_entry(cell.model)

    def cause(key: tuple, check: Callable[[], object]) -> str | None:
        if key not in looked:
            looked[key] = _refusal(check)
        return looked[key]

    rows = (cell.benchmark, cell.n_problems, cell.prompt_style)
    weights = cause((cell.model,), lambda: check_available(entry, device))
    found = [weights, cause(rows, lambda: load_problems(*rows))]
    if weights is None:
        found += [
            cause((cell.model, cell.method, *(getattr(cell, n) for n in LEARNED)), lambda: _check_learned(cell, entry)),
            _refusal(lambda: _check_sizes(cell, entry, device)),
        ]
    return list(dict.fromkeys(text for text in found if text is not None))


def _refusal(check: Callable[[], object]) -> str | None:
    try:
        check()
    except KvreproError as error:
        return str(error)
    return None


def _check_sizes(cell: CellConfig, entry: ModelEntry, device: str) -> None:
    """Sizes, options and prompts, and the memory that they take beside the weights."""
    resolved = resolve_cell(cell)
    if device != ELSEWHERE:
        check_fits(entry, device, resolved.kv_bytes + resolved.predictor_bytes)


def _check_learned(cell: CellConfig, entry: ModelEntry) -> None:
    """Load what the method reads beside the weights, as the run will, with the configuration in the model's place."""
    needs = set(method_class(cell.method).needs)
    # separators are the tokenizer's, which is there when the weights are
    given = {"separators": (0,)} if "separators" in needs else {}
    if needs - set(given):
        place = {"name_or_path": entry.source, "config": model_config(entry)}
        model = SimpleNamespace(**place, device=torch.device("cpu"), dtype=torch.float32)
        loaded_method(cell, model, None, **given)


def _full_disk(cells: Sequence[CellConfig]) -> str | None:
    """Why the results do not fit, None if they do."""
    folder = results_root()
    while not folder.exists():
        folder = folder.parent
    # every reply at its limit, twice while it is graded
    needed = sum(ResolvedCell.of(cell).disk_bytes(2 * cell.max_new_tokens) for cell in cells)
    free = shutil.disk_usage(folder).free
    if needed <= free:
        return None
    return (
        f"the results take up to {needed / GIB:.1f} GiB, {folder} has {free / GIB:.1f} GiB free: make room, or "
        "write elsewhere with KVREPRO_RESULTS"
    )


def _named(ids: list[str], of: int) -> str:
    if len(ids) == of:
        return f"all {of} cells"
    return ids[0] if len(ids) == 1 else f"{len(ids)} of {of} cells, {ids[0]} first"
