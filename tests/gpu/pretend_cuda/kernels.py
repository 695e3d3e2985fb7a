"""Triton kernels on the pretend device: in Triton's interpreter, or by their torch twins, which is much faster.

Either way the wrapper runs as on a GPU, up to its launches. With twins, what it returns is then overwritten by what its
twin computes from the same arguments, in the interpreter each launch runs as one node.
"""

from __future__ import annotations

import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from kvrepro.kernels import launch as launching
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from kvrepro import cache, engine, kernels, methods

from .nodes import Node, replaced, tensors_in
from .tensor import PretendTensor

if TYPE_CHECKING:
    from .cuda import PretendCuda


class PretendKernels:
    """Stands in for `kvrepro.kernels.launch.launch` and, with twins, for every wrapper."""

    def __init__(self, gpu: PretendCuda, *, interpret: bool):
        if interpret and not launching.interpreting():
            raise ValueError("interpret=True needs TRITON_INTERPRET=1 before Triton is imported")
        self.gpu, self.interpret = gpu, interpret
        self._really_launch = launching.launch
        self._inside = False
        self._launches = 0

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While it lasts, kernels go this way."""
        with ExitStack() as stack:
            # what was found out about another device
            stack.callback(_forget_devices)
            _forget_devices()
            for owner, name, value in self._patches():
                stack.enter_context(patch.object(owner, name, value))
            yield

    def _patches(self) -> Iterator[tuple[Any, str, Any]]:
        """`(module, name, what stands in for it)`."""
        yield launching, "launch", self.launch
        if self.interpret:
            return
        twins = {wrapper: self._with_twin(wrapper) for wrapper in wrappers()}
        # whoever imported a wrapper by its name holds it; a module that is imported later would keep the stand-in
        for package in (cache, engine, methods):
            for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
                import_module(info.name)
        for module in [m for name, m in sys.modules.items() if name.split(".")[0] == "kvrepro"]:
            for name, value in vars(module).items():
                if inspect.isfunction(value) and value in twins:
                    yield module, name, twins[value]

    def launch(self, kernel: Any, grid: tuple[int, ...], arguments: dict, *given: Any, **options: Any) -> None:
        """One launch, as `kvrepro.kernels.launch.launch` takes it."""
        if 0 in grid:
            return
        for name, value in arguments.items():
            if isinstance(value, Tensor) and not isinstance(value, PretendTensor):
                raise ValueError(f"Pointer argument {name} cannot be accessed from Triton (cpu tensor?)")
        self.gpu.journal.note("launch", kernel.__name__, place=False)
        self._launches += 1
        if self.interpret:
            args, options = replaced(((kernel, grid, arguments, *given), options), _bare)
            self._queue(Node(kernel.__name__, self._really_launch, args, options))

    def _with_twin(self, wrapper: Callable) -> Callable:
        @wraps(wrapper)
        def called(*args: Any, **kwargs: Any) -> Any:
            if self._inside or not any(isinstance(t, PretendTensor) for t in tensors_in([args, kwargs])):
                return wrapper(*args, **kwargs)
            before, self._inside = self._launches, True
            try:
                found = wrapper(*args, **kwargs)
            finally:
                self._inside = False
            if self._launches > before:
                args, kwargs, outputs = replaced((args, {**kwargs, "impl": "reference"}, found), _bare)
                self._queue(Node(wrapper.__name__, wrapper, args, kwargs, outputs))
            return found

        return called

    def _queue(self, node: Node) -> None:
        if self.gpu.capture is not None:
            self.gpu.capture.add(node)
            return
        with _disable_current_modes():
            node.run()


def wrappers() -> Iterator[Callable]:
    """Functions of `kvrepro.kernels` that choose between a kernel and its twin."""
    for info in pkgutil.iter_modules(kernels.__path__):
        module = import_module(f"{kernels.__name__}.{info.name}")
        for function in _functions(module):
            if "impl" in inspect.signature(function).parameters:
                yield function


def _functions(module: ModuleType) -> list[Callable]:
    return [f for f in vars(module).values() if inspect.isfunction(f) and f.__module__ == module.__name__]


def _forget_devices() -> None:
    for value in vars(launching).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


def _bare(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, PretendTensor) else leaf
