"""The kernel that executes our notebooks: this very interpreter, whatever kernels Jupyter knows on this machine."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from ..errors import RunError

NAME = "python3"  # what executed notebooks say; no kernel of that name is looked up
_TRACEBACK = "Traceback (most recent call last):"
START_LIMIT_S = 240  # a loaded machine takes its time


def kernel_command() -> list[str]:
    """What starts a kernel; Jupyter fills in the connection file."""
    return [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]


class OwnKernelManager(AsyncKernelManager):
    """Starts `kernel_command()`; what the kernel writes past its notebook goes to `log`."""

    log_file: IO[str] | None = None

    @property
    def kernel_spec(self) -> KernelSpec:
        """Made here and never looked up, so a kernel of the same name elsewhere changes nothing."""
        return KernelSpec(argv=kernel_command(), display_name="Python 3", language="python", name=NAME)

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
            yield {"kernel_name": NAME, "kernel_manager_class": manager, "start_timeout": START_LIMIT_S}
        except DeadKernelError as error:
            raise RunError(
                f"{notebook}: the kernel died, often for lack of memory: {error}; {_last_words(log)}"
            ) from error
        except RuntimeError as error:
            # nbclient has no error of its own for a kernel that does not answer
            raise RunError(f"{notebook}: the kernel {NAME} does not answer ({error}); {_last_words(log)}") from error
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
