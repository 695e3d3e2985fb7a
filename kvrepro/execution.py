"""Execute a notebook as a program: validated parameters, a lock, whole results or none, a named failure."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import results
from .config import CellConfig
from .errors import KvreproError, RunError
from .paths import project_root, results_root
from .results import NOTEBOOK, CellFolder

LOCK = "lock"
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
    folder.partial.mkdir(parents=True, exist_ok=True)
    with _locked(folder.partial / LOCK, config.cell_id):
        if folder.is_complete:
            # another process published it between the look above and the lock
            return folder.path
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
    """Execute a notebook with papermill in this interpreter's environment.

    Raises:
        KvreproError: a parameter that the notebook does not have (papermill itself would only warn).
        RunError: a cell of the notebook raised.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    known = notebook_parameters(source)
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise KvreproError(f"{source.name} has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    for name, value in CELL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        papermill.execute_notebook(
            str(source), str(target), parameters, kernel_name=kernel_name(), progress_bar=False, cwd=str(project_root())
        )
    except papermill.PapermillExecutionError as error:
        raise RunError(f"{source.name}: {error.ename}: {error.evalue}") from error
    except DeadKernelError as error:
        raise RunError(f"{source.name}: the kernel died, often for lack of memory: {error}") from error


def kernel_name() -> str:
    """A kernel that runs this interpreter; registered inside the environment when it is missing.

    The environment's own `python3` kernel is right whenever jupyter runs from it. Elsewhere the name may point
    to another installation, so it is written to this environment's prefix once.
    """
    from ipykernel.kernelspec import write_kernel_spec

    name = "python3"
    folder = Path(sys.prefix) / "share" / "jupyter" / "kernels" / name
    if not (folder / "kernel.json").is_file():
        write_kernel_spec(str(folder))
    return name


@contextmanager
def _locked(path: Path, cell_id: str) -> Iterator[None]:
    """Hold a file lock that dies with the process, so that a killed run never blocks the next."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise KvreproError(f"cell {cell_id} is being run by another process; wait for it or stop it") from error
        yield


def is_running(folder: CellFolder) -> bool:
    """True while some process holds the lock of the cell's unfinished run."""
    path = folder.partial / LOCK
    if not path.is_file():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def finished_samples(folder: CellFolder) -> int:
    """Replies that an unfinished run has written so far."""
    path = folder.partial / results.COMPLETIONS
    return sum(1 for _ in path.open()) if path.is_file() else 0
