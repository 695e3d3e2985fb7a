"""Runs the processes of `gpu-check`: starts them, reads what they write, kills those over their time, starts anew."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...paths import PACKAGE
from ...runs.processes import child_command
from .plan import Settings, Unit
from .report import Report

POLL_S = 0.1
# a process is told to begin nothing so long before it is killed
MARGIN_S, MARGIN_SHARE = 8.0, 0.2
# not worth starting
LEAST_S = 5.0
# how often one unit's process is started again behind a row that ended it
MOST_RESTARTS = 5
TAIL_CHARACTERS = 1500
KILLED_WAIT_S = 10.0


@dataclass
class _Running:
    """A unit under way; survives its processes."""

    unit: Unit
    deadline: float
    file: Path
    log: Path
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.time)
    read: int = 0
    begun: dict[str, Any] | None = None
    n_ended: int = 0
    restarts: int = 0
    is_late: bool = False

    @property
    def is_cut(self) -> bool:
        """Killed before its own limit, for lack of time in all."""
        return self.is_late and self.deadline - self.started < self.unit.limit_s - 1


class Supervisor:
    """Runs units in a folder and gives their rows to a report.

    Args:
        folder: for the lines and the output of each unit.
    """

    def __init__(self, report: Report, folder: Path, settings: Settings):
        self.report, self.folder, self.settings = report, folder, settings
        self._waiting: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._waiting.values():
            _kill(process)

    def run(self, units: Sequence[Unit], until: float, after: Sequence[Unit] = ()) -> None:
        """Run units side by side until all have ended; what is left at `until`, by `time.time()`, is killed.

        Args:
            after: the units of the next call. Their processes load torch meanwhile, on cores that nobody needs, and
                wait before they touch the device.
        """
        running = []
        try:
            for unit in units:
                limit = min(unit.limit_s, until - time.time())
                if limit < LEAST_S:
                    late = {"part": unit.part, "unit": unit.name, "why": "out of time before it began"}
                    self.report.add("skipped", late)
                else:
                    running.append(self._start(unit, time.time() + limit, len(units)))
            for unit in after:
                self._waiting[unit.title] = self._open(unit, len(after))
            while running:
                time.sleep(POLL_S)
                running = [one for one in running if not self._has_ended(one, len(units))]
                self.report.write()
        finally:
            for one in running:
                _kill(one.process)
            self.report.write()

    def _start(self, unit: Unit, deadline: float, beside: int) -> _Running:
        process = self._waiting.pop(unit.title, None) or self._open(unit, beside)
        one = _Running(unit, deadline, self._path(unit, "jsonl"), self._path(unit, "log"), process)
        one.file.write_text("")
        self._tell(one)
        return one

    def _path(self, unit: Unit, kind: str) -> Path:
        return self.folder / f"{unit.title.replace(' ', '-').replace('=', '-')}.{kind}"

    def _tell(self, one: _Running) -> None:
        """Let a process begin."""
        limit = one.deadline - time.time()
        told = {
            "name": one.unit.name,
            "file": str(one.file),
            "until": one.deadline - min(MARGIN_S, MARGIN_SHARE * limit),
            "start_at": one.n_ended,
            "settings": asdict(self.settings),
            "known": self.report.known,
        }
        # one that has ended already tells by its exit code
        with contextlib.suppress(BrokenPipeError), one.process.stdin as pipe:
            pipe.write(json.dumps(told).encode() + b"\n")

    def _open(self, unit: Unit, beside: int) -> subprocess.Popen[bytes]:
        paths = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
        environment |= {"PYTHONFAULTHANDLER": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        if beside > 1:
            # one core each; alone a process may have all of them
            environment["OMP_NUM_THREADS"] = "1"
        with self._path(unit, "log").open("ab") as log:
            return subprocess.Popen(
                child_command("kvrepro.bench.gpu.child", unit.work),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment | unit.environment,
                # a session of its own, so that whatever it starts is killed with it
                start_new_session=True,
            )

    def _has_ended(self, one: _Running, beside: int) -> bool:
        rc = one.process.poll()
        self._read(one)
        if rc is None:
            if time.time() <= one.deadline:
                return False
            one.is_late = True
            rc = _kill(one.process)
            self._read(one)
        if rc == 0:
            return self._finish(one, rc, None)
        why = self._why(one, rc)
        if one.begun is not None:
            # the row that it was in is lost, and the next process begins behind it
            row = {**one.begun["labels"], "table": one.begun["table"], "why": f"the process ended here: {why}"}
            self._note("skipped" if one.is_cut else "errors", one, row)
            one.n_ended, one.begun, lost_a_row = one.begun["begin"], None, True
        else:
            lost_a_row = one.n_ended > 0
        if one.is_late or not lost_a_row or one.restarts == MOST_RESTARTS or one.deadline - time.time() < LEAST_S:
            return self._finish(one, rc, why)
        one.restarts += 1
        one.process = self._open(one.unit, beside)
        self._tell(one)
        return False

    def _read(self, one: _Running) -> None:
        """Take the lines that have come; one that is being written is left for later."""
        content = one.file.read_bytes()
        whole = content.rfind(b"\n") + 1
        for text in filter(None, content[one.read : whole].split(b"\n")):
            line = json.loads(text)
            if "begin" in line:
                one.begun = line
            elif "end" in line:
                one.begun, one.n_ended = None, line["end"]
            elif line["table"] in ("skipped", "errors"):
                self._note(line["table"], one, line["row"])
            else:
                self.report.add(line["table"], line["row"])
        one.read = whole

    def _note(self, table: str, one: _Running, row: dict[str, Any]) -> None:
        self.report.add(table, {"part": one.unit.part, "unit": one.unit.name, **row})

    def _why(self, one: _Running, rc: int) -> str:
        if one.is_cut:
            return "out of time"
        if one.is_late:
            return f"killed at its limit of {one.deadline - one.started:.0f} s"
        signalled = f" ({signal.Signals(-rc).name})" if -rc in iter(signal.Signals) else ""
        tail = one.log.read_text(errors="replace").strip()[-TAIL_CHARACTERS:]
        return f"code {rc}{signalled}: {tail}"

    def _finish(self, one: _Running, rc: int, why: str | None) -> bool:
        seconds = round(time.time() - one.started, 1)
        row = {"part": one.unit.part, "unit": one.unit.name, "seconds": seconds, "rc": rc, "restarts": one.restarts}
        row |= {"cut": True} if one.is_cut else {}
        self.report.add("parts", row | ({} if why is None else {"why": why}))
        return True


def _kill(process: subprocess.Popen[bytes]) -> int:
    """End a process and what it started; one that hangs in the driver is not waited for."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(KILLED_WAIT_S)
    return -signal.SIGKILL
