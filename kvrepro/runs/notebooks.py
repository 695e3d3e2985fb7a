"""Execute a notebook as a program: validated parameters, this very interpreter, a named failure."""

from __future__ import annotations

import os
import re
import shutil
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..claims import held
from ..errors import KvreproError, RunError
from ..paths import PACKAGE, project_root, working_root
from .config import CellConfig
from .folder import NOTEBOOK, CellFolder
from .gpus import claimed_gpus
from .kernel import own_kernel
from .parts import wait_for_parts
from .processes import CELL_ENVIRONMENT

_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_FRAME = re.compile(r"^File (?P<file>[^<\n].*):(?P<line>\d+), in (?P<function>[^\s(]+)", re.MULTILINE)


def run_cell_notebook(profile: str, config: CellConfig, n_gpus: int = 1) -> Path:
    """Run `notebooks/cell.ipynb` for one cell and publish its folder; a complete cell is left alone.

    A cell that another process runs is waited for, and taken over where that process did not finish it.

    Args:
        n_gpus: devices that it decodes on, where `KVREPRO_GPUS` lists those that runs share; else what it sees.

    Raises:
        KvreproError: fewer devices are listed.
        RunError: the notebook failed; it is kept under `failed/`. Or the cell was lost to another process meanwhile.
    """
    folder = CellFolder.of(profile, config)
    with held(folder.lock, f"cell {config.cell_id}", wait=True):
        if folder.is_complete:
            return folder.path
        folder.partial.mkdir(parents=True, exist_ok=True)
        # before a device is taken: a part that is alive may be waiting for one
        wait_for_parts(folder.partial, f"cell {config.cell_id}")
        parameters = {**config.resolved(), "folder": str(folder.partial)}
        try:
            with claimed_gpus(n_gpus):
                execute_notebook(project_root() / "notebooks" / "cell.ipynb", folder.partial / NOTEBOOK, parameters)
        except RunError as error:
            folder.failed_notebook.parent.mkdir(parents=True, exist_ok=True)
            if (folder.partial / NOTEBOOK).is_file():
                shutil.copyfile(folder.partial / NOTEBOOK, folder.failed_notebook)
            raise RunError(
                f"cell {config.cell_id} failed: {error}\nexecuted notebook: {folder.failed_notebook}"
            ) from error
        folder.publish()
    return folder.path


def notebook_parameters(source: Path) -> list[str]:
    """Names in the notebook's parameters cell."""
    import papermill

    return list(papermill.inspect_notebook(str(source)))


def execute_notebook(source: Path, target: Path, parameters: dict[str, Any]) -> None:
    """Execute a notebook with papermill in a kernel that runs this interpreter.

    Raises:
        KvreproError: a parameter that the notebook does not have (papermill itself would only warn), or no folder of
            this user's alone for the kernel's sockets.
        RunError: a cell of the notebook raised, or the kernel did not start, did not answer or died.
    """
    import papermill

    known = notebook_parameters(source)
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise KvreproError(f"{source.name} has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    for name, value in CELL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    place = {"progress_bar": False, "cwd": str(working_root())}
    try:
        with own_kernel() as kernel:
            papermill.execute_notebook(str(source), str(target), parameters, **place, **kernel)
    except papermill.PapermillExecutionError as error:
        raise RunError(f"{source.name}: {error.ename}: {error.evalue}{_own_frame(error.traceback)}") from error
    except RunError as error:
        raise RunError(f"{source.name}: {error}") from error


def _own_frame(traceback: Sequence[str]) -> str:
    """` (ideas.py, line 22, in Mine.score)`: the innermost frame in a file of the user's own, empty if none is."""
    others = [
        PACKAGE,
        PACKAGE.parent / "kernels",
        *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")),
    ]
    for frame in reversed(list(_FRAME.finditer(_COLOUR.sub("", "\n".join(traceback))))):
        # IPython writes the home folder as ~
        file = Path(frame["file"]).expanduser()
        is_installed = {"site-packages", "dist-packages"} & set(file.parts)
        if not is_installed and not any(file.is_relative_to(other) for other in others):
            return f" ({file.name}, line {frame['line']}, in {frame['function']})"
    return ""
