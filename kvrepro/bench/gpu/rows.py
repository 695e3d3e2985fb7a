"""What a process of `gpu-check` writes: one JSON line when a row begins, one per result, one when it has ended.

Every line is handed to the system at once, so whatever ends the process leaves them; which row it was is seen from a
beginning without an end.
"""

from __future__ import annotations

import gc
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import torch

from ...errors import KvreproError
from ...files import append_row
from .clocks import clocks

# exit code of a process whose GPU context, or whose allocator, does not serve any more: another one goes on behind the
# row that broke it
DEVICE_LOST = 3
WHY_CHARACTERS, TRACE_CHARACTERS = 2000, 3000


class TooLargeError(KvreproError):
    """A batch that does not fit into the memory of the device."""


class Rows:
    """Runs works one after the other and writes what they find.

    Args:
        path: the file, to which lines are added.
        until: a time of `time.time()` after which nothing new begins.
        device: where works run; a GPU is looked at after each of them.
        start_at: works that an earlier process of the same unit has done; they are passed over.
    """

    def __init__(self, path: Path, until: float, device: str, start_at: int = 0):
        self.path, self.until, self.device, self.start_at = path, until, device, start_at
        self.n_works = 0

    def add(
        self,
        table: str,
        work: Callable[[], dict[str, Any] | Iterable[dict[str, Any]]],
        *,
        with_clocks: bool = True,
        **labels: Any,
    ) -> None:
        """One row of a table, or those that a work yields; whatever breaks is written too, and the next row runs.

        A row holds its labels, what the work found, the clocks at its start, its seconds and the warnings that were
        raised. What did not fit or came too late is noted as skipped; memory that runs out where a result must be right
        is an error.
        """
        self.n_works += 1
        if self.n_works <= self.start_at:
            return
        self._write({"begin": self.n_works, "table": table, "labels": labels})
        if time.time() > self.until:
            self.note("skipped", table, labels, "out of time: nothing new begins so late")
        else:
            self._run(table, work, with_clocks, labels)
        self._write({"end": self.n_works})
        self._free_memory()

    def note(self, kind: str, table: str, labels: dict[str, Any], why: str, **more: Any) -> None:
        """A line of `skipped` or `errors` for a row that a table lacks."""
        self._write({"table": kind, "row": {**labels, "table": table, "why": why[:WHY_CHARACTERS], **more}})

    def _run(self, table: str, work: Callable[[], Any], with_clocks: bool, labels: dict[str, Any]) -> None:
        measured = {"clocks": clocks()} if with_clocks else {}
        started = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = work()
                for row in [found] if isinstance(found, dict) else found:
                    said = list(dict.fromkeys(str(w.message)[:500] for w in caught))
                    caught.clear()
                    measured["seconds"] = round(time.perf_counter() - started, 3)
                    self._write({"table": table, "row": {**labels, **row, **measured, "warnings": said}})
            except (torch.cuda.OutOfMemoryError, TooLargeError) as error:
                is_skipped = table != "correct" or isinstance(error, TooLargeError)
                self.note("skipped" if is_skipped else "errors", table, labels, f"out of memory: {error}")
            except Exception as error:
                # a kernel that does not compile, a shape that is not served: recorded, and the other rows still run
                said = list(dict.fromkeys(str(w.message)[:500] for w in caught))
                trace = traceback.format_exc()[-TRACE_CHARACTERS:]
                self.note("errors", table, labels, f"{type(error).__name__}: {error}", trace=trace, warnings=said)

    def _write(self, line: dict[str, Any]) -> None:
        append_row(self.path, line)

    def _free_memory(self) -> None:
        """Give back what is no longer held, and end this process where the device does not answer any more."""
        gc.collect()
        if not self.device.startswith("cuda"):
            return
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except Exception as error:
            _end(f"the device does not serve this process any more: {type(error).__name__}: {error}")


def _end(why: str) -> NoReturn:
    # no clean-up: it would wait for a device that does not answer
    import os

    print(why, flush=True)
    os._exit(DEVICE_LOST)
