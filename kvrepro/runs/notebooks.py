"""Execute a notebook as a program: validated parameters, a lock, whole results or none, a named failure."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from ..errors import KvreproError, RunError
from ..files import held, is_held
from ..paths import project_root, results_root, working_root
from . import folder as results
from .config import CellConfig
from .folder import NOTEBOOK, CellFolder
from .kernel import own_kernel

# one thread per cell: the grid runs as many cells side by side as there are cores
CELL_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def run_cell_notebook(profile: str, config: CellConfig) -> Path:
    """Run `notebooks/cell.ipynb` for one cell and publish its folder; a complete cell is left alone.

    Raises:
        KvreproError: another process is running this very cell.
        RunError: the notebook failed; it is kept under `failed/`.
    """
    folder = CellFolder.of(profile, config)
    if folder.is_complete:
        return folder.path
    with held(folder.lock, f"cell {config.cell_id}"):
        if folder.is_complete:
            # another process published it between the look above and the lock
            return folder.path
        folder.partial.mkdir(parents=True, exist_ok=True)
        parameters = {**config.resolved(), "folder": str(folder.partial)}
        try:
            execute_notebook(project_root() / "notebooks" / "cell.ipynb", folder.partial / NOTEBOOK, parameters)
        except RunError as error:
            failed = results_root() / profile / "failed" / f"{config.cell_id.replace('/', '_')}.ipynb"
            failed.parent.mkdir(parents=True, exist_ok=True)
            if (folder.partial / NOTEBOOK).is_file():
                shutil.copyfile(folder.partial / NOTEBOOK, failed)
            raise RunError(f"cell {config.cell_id} failed: {error}\nexecuted notebook: {failed}") from error
        folder.publish()
    return folder.path


def notebook_parameters(source: Path) -> list[str]:
    """Names in the notebook's parameters cell."""
    import papermill

    return list(papermill.inspect_notebook(str(source)))


def execute_notebook(source: Path, target: Path, parameters: dict[str, Any]) -> None:
    """Execute a notebook with papermill in a kernel that runs this interpreter.

    Raises:
        KvreproError: a parameter that the notebook does not have (papermill itself would only warn).
        RunError: a cell of the notebook raised, or the kernel did not start, did not answer or died.
    """
    import papermill

    known = notebook_parameters(source)
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise KvreproError(f"{source.name} has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    for name, value in CELL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with own_kernel(source.name) as kernel:
            papermill.execute_notebook(
                str(source), str(target), parameters, progress_bar=False, cwd=str(working_root()), **kernel
            )
    except papermill.PapermillExecutionError as error:
        raise RunError(f"{source.name}: {error.ename}: {error.evalue}") from error


def is_running(folder: CellFolder) -> bool:
    """True while some process holds the lock of the cell's unfinished run."""
    return is_held(folder.lock)


def finished_samples(folder: CellFolder) -> int:
    """Replies that an unfinished run has written so far."""
    path = folder.partial / results.COMPLETIONS
    return sum(1 for _ in path.open()) if path.is_file() else 0
