"""Execute a notebook as a program: validated parameters, this very interpreter, a named failure."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from ..errors import KvreproError, RunError
from ..files import held
from ..paths import fork_server_address, project_root, working_root
from .config import CellConfig
from .folder import NOTEBOOK, CellFolder
from .processes import CELL_ENVIRONMENT
from .stand_in import stand_in_command

KERNEL = "python3"  # what executed notebooks say; no kernel of that name is looked up
START_LIMIT_S = 240  # a loaded machine takes its time
_TRACEBACK = "Traceback (most recent call last):"


def run_cell_notebook(profile: str, config: CellConfig) -> Path:
    """Run `notebooks/cell.ipynb` for one cell and publish its folder; a complete cell is left alone.

    Raises:
        KvreproError: another process is running this very cell.
        RunError: the notebook failed; it is kept under `failed/`.
    """
    folder = CellFolder.of(profile, config)
    with held(folder.lock, f"cell {config.cell_id}"):
        if folder.is_complete:
            return folder.path
        folder.partial.mkdir(parents=True, exist_ok=True)
        parameters = {**config.resolved(), "folder": str(folder.partial)}
        try:
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
    place = {"progress_bar": False, "cwd": str(working_root())}
    try:
        with own_kernel(source.name) as kernel:
            papermill.execute_notebook(str(source), str(target), parameters, **place, **kernel)
    except papermill.PapermillExecutionError as error:
        raise RunError(f"{source.name}: {error.ename}: {error.evalue}") from error


def kernel_command() -> list[str]:
    """What starts a kernel, in a grid by way of its fork server; Jupyter fills in the connection file."""
    arguments = "ipykernel_launcher", "-f", "{connection_file}"
    if fork_server_address():
        # it must not look for its parent, which is the server: it ends with what is started here
        return stand_in_command(*arguments, "--IPKernelApp.parent_handle=1")
    return [sys.executable, "-m", *arguments]


class OwnKernelManager(AsyncKernelManager):
    """Starts `kernel_command()`; what the kernel writes past its notebook goes to `log_file`."""

    log_file: IO[str] | None = None

    @property
    def kernel_spec(self) -> KernelSpec:
        """Made here and never looked up, so a kernel of the same name elsewhere changes nothing."""
        return KernelSpec(argv=kernel_command(), display_name="Python 3", language="python", name=KERNEL)

    async def _async_launch_kernel(self, kernel_cmd: list[str], **kwargs: Any) -> None:
        await super()._async_launch_kernel(kernel_cmd, **{**kwargs, "stderr": self.log_file})


@contextmanager
def own_kernel(notebook: str) -> Iterator[dict[str, Any]]:
    """Arguments of papermill's `execute_notebook` that run the notebook in a kernel of ours.

    What the kernel itself writes is passed on to the error output afterwards.

    Raises:
        RunError: the kernel did not start, did not answer in `START_LIMIT_S` seconds, or died.
    """
    from nbclient.exceptions import DeadKernelError

    with tempfile.TemporaryFile("w+") as log:
        manager = type("LoggedKernelManager", (OwnKernelManager,), {"log_file": log})
        try:
            yield {"kernel_name": KERNEL, "kernel_manager_class": manager, "start_timeout": START_LIMIT_S}
        except DeadKernelError as error:
            raise RunError(
                f"{notebook}: the kernel died, often for lack of memory: {error}; {_last_words(log)}"
            ) from error
        except RuntimeError as error:
            # nbclient has no error of its own for a kernel that does not answer
            raise RunError(f"{notebook}: the kernel {KERNEL} does not answer ({error}); {_last_words(log)}") from error
        finally:
            log.seek(0)
            sys.stderr.write(log.read())


def _last_words(log: IO[str]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log.read().splitlines() if line.strip()]
    if lines[-1:] == ["KeyboardInterrupt"] and _TRACEBACK in lines:
        # that is how a kernel which does not answer was made to end
        lines = lines[: len(lines) - 1 - lines[::-1].index(_TRACEBACK)]
    return f"started as {shlex.join(kernel_command())}; its last line: {lines[-1] if lines else 'none'}"
