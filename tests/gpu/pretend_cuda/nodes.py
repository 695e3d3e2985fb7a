"""A piece of device work that can run now or, captured, at every replay."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import _disable_current_modes

# what uninitialised memory holds
POISONED_INTEGER = -77777


def poison(tensor: Tensor) -> None:
    """Fill with what no code should ever read."""
    if tensor.is_floating_point() or tensor.is_complex():
        tensor.fill_(float("nan"))
    elif tensor.dtype == torch.bool:
        tensor.fill_(True)
    else:
        tensor.fill_(POISONED_INTEGER if tensor.element_size() > 2 else 77)


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in arguments or results: in nested lists, tuples and dictionaries, nothing else is opened."""
    found: list[Tensor] = []
    _collect(value, found)
    return found


def _collect(value: Any, found: list[Tensor]) -> None:
    if isinstance(value, Tensor):
        found.append(value)
    elif type(value) in (list, tuple):
        for part in value:
            _collect(part, found)
    elif type(value) is dict:
        _collect(list(value.values()), found)


def replaced(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with every leaf of its lists, tuples and dictionaries replaced by `change(leaf)`."""
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([replaced(part, change) for part in value])
    if kind is dict:
        return {name: replaced(part, change) for name, part in value.items()}
    return change(value)


@dataclass
class Outside:
    """A tensor that a captured node uses and the graph does not own: known by its address alone, as to a GPU."""

    storage: StorageWeakRef
    dtype: torch.dtype
    place: tuple

    @classmethod
    def of(cls, tensor: Tensor) -> Outside:
        """Forget a tensor but for its address."""
        storage = StorageWeakRef(tensor.untyped_storage())
        return cls(storage, tensor.dtype, (tensor.storage_offset(), tuple(tensor.shape), tensor.stride()))

    def tensor(self, node: str) -> Tensor:
        """The tensor; `RuntimeError` where its memory was freed."""
        storage = torch.UntypedStorage._new_with_weak_ptr(self.storage.cdata)
        if storage is None:
            raise RuntimeError(
                f"the graph's {node} uses a tensor of shape {self.place[1]} that was made outside of the capture and "
                "freed since: keep it alive as long as the graph"
            )
        return torch.empty(0, dtype=self.dtype).set_(storage, *self.place)


@dataclass
class Node:
    """`function(*args, **kwargs)` on CPU tensors.

    What it returns is copied into `outputs`, the tensors that it returned when it was captured; None where it changes
    its arguments only.
    """

    name: str
    function: Callable
    args: tuple
    kwargs: dict
    outputs: Any = None
    reads_outside: bool = False

    def forget(self, owned: Container[int]) -> None:
        """Keep only the address of tensors whose memory (its first address) is not among `owned`."""

        def forgotten(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor) or not leaf.numel() or leaf.untyped_storage().data_ptr() in owned:
                return leaf
            self.reads_outside = True
            return Outside.of(leaf)

        self.args, self.kwargs = replaced((self.args, self.kwargs), forgotten)

    def run(self) -> None:
        """Do the work and put its results where the graph's memory for them lies; outside of all modes."""
        args, kwargs = self.args, self.kwargs
        if self.reads_outside:
            args, kwargs = replaced((args, kwargs), self._found)
        found = self.function(*args, **kwargs)
        if self.outputs is not None:
            for place, value in zip(tensors_in(self.outputs), tensors_in(found), strict=True):
                if place.data_ptr() != value.data_ptr():
                    place.copy_(value)

    def _found(self, leaf: Any) -> Any:
        return leaf.tensor(self.name) if isinstance(leaf, Outside) else leaf


class Recording:
    """The nodes of one stream capture."""

    def __init__(self):
        self.nodes: list[Node] = []
        self._owned: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.nodes)

    def own(self, tensors: Iterable[Tensor]) -> None:
        """Tensors that were made during the capture lie in the graph's own memory."""
        for tensor in tensors:
            if tensor.numel():
                self._owned.setdefault(tensor.untyped_storage().data_ptr(), tensor)

    def add(self, node: Node) -> None:
        """Append a node and own what it returns."""
        self.nodes.append(node)
        self.own(tensors_in(node.outputs))

    def seal(self) -> None:
        """The capture is over: nothing was computed, and what it did not make itself is known by address."""
        for tensor in self._owned.values():
            poison(tensor)
        for node in self.nodes:
            node.forget(self._owned)

    @torch.inference_mode()
    def replay(self) -> None:
        """Run all nodes."""
        with _disable_current_modes():
            for node in self.nodes:
                node.run()
