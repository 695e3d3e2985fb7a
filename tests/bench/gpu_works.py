"""Works that the processes of `gpu-check` are given in tests: sound, slow, broken and deadly ones."""

from __future__ import annotations

import os
import signal
import time

from kvrepro.bench.gpu.rows import DEVICE_LOST


def _found(value):
    return lambda: {"value": value}


def sound(task):
    for value in range(3):
        task.rows.add("correct", _found(value), model="m", name=f"row {value}", ok=True)


def raises_in_a_row(task):
    def broken():
        raise ValueError("no such kernel")

    task.rows.add("correct", _found(0), model="m", name="before", ok=True)
    task.rows.add("correct", broken, model="m", name="broken")
    task.rows.add("correct", _found(2), model="m", name="behind", ok=True)


def dies_in_a_row(task):
    task.rows.add("correct", _found(0), model="m", name="before", ok=True)
    task.rows.add("correct", lambda: os.kill(os.getpid(), signal.SIGSEGV), model="m", name="deadly")
    task.rows.add("correct", _found(2), model="m", name="behind", ok=True)


def loses_the_device_behind_a_row(task):
    task.rows.add("correct", _found(0), model="m", name="before", ok=True)
    if task.rows.start_at == 0:
        os._exit(DEVICE_LOST)
    task.rows.add("correct", _found(1), model="m", name="behind", ok=True)


def hangs_in_a_row(task):
    task.rows.add("correct", _found(0), model="m", name="before", ok=True)
    task.rows.add("correct", lambda: time.sleep(600), model="m", name="endless")


def raises_at_once(task):
    raise RuntimeError("nothing can be made ready")
