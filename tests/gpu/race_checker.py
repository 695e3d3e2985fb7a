"""Triton kernels in the interpreter, their programs in random order, every access to memory checked.

`TRITON_INTERPRET=1 python -m tests.gpu.race_checker [STEM...]` checks every case of `kvrepro.kernels.checks` and the
planted faults, and prints what `test_race_checker` reads, as JSON: a process of its own, since the variable must be set
before Triton is imported.
"""

from __future__ import annotations

import json
import random
import sys
from contextlib import ExitStack
from importlib import import_module
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from kvrepro.kernels import checks
from kvrepro.kernels.checks.common import run_cases
from torch import Tensor
from triton.runtime import interpreter

from .happens_before import READ, WRITE, Accesses


class RaceChecker:
    """While it is entered, every interpreted launch runs its programs in random order and adds to `faults`.

    Found are: programs that read, write or update one address without an atomic that orders them; addresses outside
    of the tensors that the kernel was given (which are not accessed); one store that writes an address twice; an atomic
    that publishes a program's stores with no barrier between its threads before it.

    Args:
        seed: of the order.
    """

    def __init__(self, seed: int = 0):
        self.faults: list[str] = []
        self.programs = 0
        self._random = random.Random(seed)
        self._stack = ExitStack()

    def __enter__(self) -> RaceChecker:
        builder, grid = interpreter.InterpreterBuilder, interpreter.GridExecutor
        self._of = {
            name: getattr(builder, name)
            for name in (
                "set_grid_dim",
                "set_grid_idx",
                "create_masked_load",
                "create_masked_store",
                "create_atomic_rmw",
                "create_atomic_cas",
                "create_barrier",
            )
        }
        self._run = grid.__call__
        with ExitStack() as stack:
            for name in self._of:
                # a function, so that it is called with the builder
                stack.enter_context(patch.object(builder, name, _forwarding(getattr(self, f"_{name}"))))
            stack.enter_context(patch.object(grid, "__call__", _forwarding(self._launch)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    # -------------------------------------------------------------------------------------- launches and programs

    def _launch(self, executor: Any, *args: Any, **kwargs: Any) -> None:
        self._name, self._accesses = executor.fn.__name__, Accesses()
        tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor) and t.numel()]
        self._extents = np.array([_extent(t) for t in tensors], np.uint64).reshape(-1, 2)
        self._run(executor, *args, **kwargs)
        for what, first, second, n in self._accesses.races():
            places = f"{self._place(first.program)} and {self._place(second.program)}"
            self._fault(f"one program {what}, {n} addresses of programs {places}")

    def _fault(self, text: str) -> None:
        self.faults.append(f"{self._name}{self._grid}: {text}")

    def _place(self, program: int) -> tuple[int, ...]:
        return tuple(int(i) for i in np.unravel_index(program, self._grid))

    def _set_grid_dim(self, builder: Any, *grid: int) -> None:
        self._grid = grid
        self._order = list(range(int(np.prod(grid))))
        self._random.shuffle(self._order)
        self._of["set_grid_dim"](builder, *grid)

    def _set_grid_idx(self, builder: Any, *_: int) -> None:
        """Another program than the one that the interpreter asks for."""
        program = self._order.pop()
        self.programs += 1
        self._accesses.start(program)
        self._stored = False
        self._of["set_grid_idx"](builder, *self._place(program))

    # -------------------------------------------------------------------------------------- accesses

    def _create_masked_load(self, builder: Any, pointers: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        addresses, mask = self._inside("load", pointers, mask)
        self._accesses.add(READ, addresses)
        return self._of["create_masked_load"](builder, pointers, mask, *rest, **named)

    def _create_masked_store(self, builder: Any, pointers: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        addresses, mask = self._inside("store", pointers, mask)
        if np.unique(addresses).size < addresses.size:
            self._fault("one store writes an address twice")
        self._accesses.add(WRITE, addresses)
        self._stored = True
        return self._of["create_masked_store"](builder, pointers, value, mask, *rest, **named)

    def _create_atomic_rmw(
        self, builder: Any, operation: Any, pointers: Any, value: Any, mask: Any, order: Any, scope: Any
    ) -> Any:
        addresses, mask = self._inside("atomic", pointers, mask)
        self._atomic(addresses, order)
        return self._of["create_atomic_rmw"](builder, operation, pointers, value, mask, order, scope)

    def _create_atomic_cas(self, builder: Any, pointers: Any, old: Any, new: Any, order: Any, scope: Any) -> Any:
        addresses, _ = self._inside("atomic", pointers, None)
        self._atomic(addresses, order)
        return self._of["create_atomic_cas"](builder, pointers, old, new, order, scope)

    def _create_barrier(self, builder: Any) -> Any:
        self._stored = False
        return self._of["create_barrier"](builder)

    def _atomic(self, addresses: np.ndarray, order: Any) -> None:
        acquires, releases = (order.name in (name, "ACQUIRE_RELEASE") for name in ("ACQUIRE", "RELEASE"))
        if releases and self._stored:
            self._fault("an atomic publishes stores of other threads without a barrier before it")
        self._accesses.atomic(addresses, acquires, releases)

    def _inside(self, what: str, pointers: Any, mask: Any) -> tuple[np.ndarray, Any]:
        """The addresses of an access, and its mask without those that belong to no tensor."""
        address = np.asarray(pointers.data)
        wanted = np.ones(address.shape, bool)
        if mask is not None:
            wanted = np.broadcast_to(np.asarray(mask.data).astype(bool), address.shape)
        size = np.uint64(pointers.get_element_ty().primitive_bitwidth // 8)
        begin, end = self._extents.T
        flat = address.reshape(-1, 1)
        owned = ((flat >= begin) & (flat + size <= end)).any(1).reshape(address.shape)
        if (outside := wanted & ~owned).any():
            self._fault(f"{int(outside.sum())} of the addresses of one {what} lie outside of the kernel's tensors")
            wanted = wanted & owned
            mask = interpreter.TensorHandle(wanted, interpreter.tl.int1)
        return address[wanted].ravel(), mask


def _forwarding(method: Any) -> Any:
    return lambda *args, **kwargs: method(*args, **kwargs)


def _extent(tensor: Tensor) -> tuple[int, int]:
    """The first address of a tensor and the one behind its last."""
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def check(stem: str) -> list[dict]:
    """Every case of a kernel: its result, and what was found."""
    module, rows = import_module(f"kvrepro.kernels.checks.{stem}"), []
    for case in module.CASES:
        with RaceChecker() as checker:
            (result,) = run_cases(module, "cpu", "triton", [case])
        rows.append({**vars(result), "ok": result.ok, "faults": checker.faults, "programs": checker.programs})
    return rows


def main(stems: list[str]) -> None:
    """Print the report."""
    from . import planted_races

    torch.set_num_threads(1)
    np.seterr(all="ignore")
    planted = {}
    for name, plant in planted_races.PLANTS.items():
        with RaceChecker() as checker:
            plant()
        planted[name] = checker.faults
    print(json.dumps({"cases": [row for stem in stems for row in check(stem)], "planted": planted}))


if __name__ == "__main__":
    main(sys.argv[1:] or list(checks.STEMS))
