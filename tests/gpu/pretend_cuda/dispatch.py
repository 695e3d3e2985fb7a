"""The rules of a CUDA device, operation by operation."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .nodes import Node, poison, replaced, tensors_in
from .tensor import PretendTensor

if TYPE_CHECKING:
    from .cuda import PretendCuda

CPU = torch.device("cpu")
INDEXING = {"aten::index", "aten::_unsafe_index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
# uninitialised memory, not a launch
ALLOCATIONS = {"aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided"}
# of a tensor's description, not its values
FREE = {"aten::detach_", "aten::lift_fresh", "aten::set_"}
# views by a bit in the tensor's description, which `PretendTensor` does not carry
BY_A_BIT = {"aten::_conj": torch.conj_physical, "aten::_neg_view": torch.neg}
# a host tensor without dimensions is a number to most operations, and here
SHAPES_ON_THE_HOST = {"aten::repeat_interleave"}


class PretendMode(TorchDispatchMode):
    """Sends every operation of torch through the rules."""

    def __init__(self, gpu: PretendCuda):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if is_composite(func):
            # inference mode sends these before they are taken apart
            with self:
                found = func.decompose(*args, **(kwargs or {}))
            if found is not NotImplemented:
                return found
        return Operation(self.gpu, func, args, dict(kwargs or {})).run()


@cache
def is_composite(func: Any) -> bool:
    """Whether an operation is made of others on every device."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


@cache
def written(func: Any) -> tuple[int | str, ...]:
    """Arguments that an operation writes to: their places, or names where only a keyword gives them."""
    found = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found.append(argument.name if argument.kwarg_only else place)
    return tuple(found)


@cache
def reads_values(func: Any) -> bool:
    """Whether the host needs values to go on: for a number, or for the size of a result."""
    tags = set(func.tags)
    return bool(tags & {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})


class Operation:
    """One call of a torch operator while the pretend device is there."""

    def __init__(self, gpu: PretendCuda, func: Any, args: tuple, kwargs: dict):
        self.gpu, self.func, self.args, self.kwargs = gpu, func, args, kwargs
        self.name = func._schema.name
        self.work = BY_A_BIT.get(self.name, func)
        found = [*tensors_in(args), *tensors_in(kwargs)]
        self.on_gpu = [t for t in found if isinstance(t, PretendTensor)]
        self.on_host = [t for t in found if not isinstance(t, PretendTensor)]
        self.pins = bool(kwargs.pop("pin_memory", False))
        device = kwargs.get("device")
        self.to_gpu = bool(self.on_gpu) if device is None else device.type == "cuda"
        if device is not None and device.type == "cuda" and device.index not in (None, 0):
            raise RuntimeError(f"CUDA error: invalid device ordinal ({device})")

    def run(self) -> Any:
        """What the operation returns."""
        if self.name == "aten::is_pinned":
            return not self.on_gpu and self.gpu.copies.is_pinned(self.args[0])
        if self.name == "aten::_pin_memory":
            if self.on_gpu:
                raise RuntimeError("cannot pin 'torch.cuda.FloatTensor', only dense CPU tensors can be pinned")
            self.gpu.forbid_in_capture("pin_memory allocates")
            return self.gpu.copies.pin(self.args[0].clone())
        if self.name == "aten::_to_copy" and self.kwargs.get("device") is not None:
            return self._converted()
        if not self.to_gpu and (not self.on_gpu or self.kwargs.get("device") is not None):
            return self._on_host()
        if self.name == "aten::copy_" and len(self.on_gpu) == 1 and self.on_host:
            return self._copied()
        if self.name in INDEXING:
            self._check_index()
        elif self.on_gpu and self.on_host:
            self._check_devices()
            if self.name in SHAPES_ON_THE_HOST:
                raise RuntimeError(f"{self.name} takes its counts from the host")
        if self.name not in INDEXING and reads_values(self.func):
            self.gpu.host_read(str(self.func))
        return self._launched()

    # -------------------------------------------------------------------------------------- devices

    def _on_host(self) -> Any:
        found = self.func(*self._bare(self.args), **self._bare(self.kwargs))
        if self.pins:
            self.gpu.forbid_in_capture("pin_memory allocates")
            self.gpu.copies.pin(found)
        return found

    def _check_devices(self) -> None:
        """Numbers from the host may mix with the device, tensors may not."""
        wrong = [tuple(t.shape) for t in self.on_host if t.dim()]
        if wrong:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found cuda:0 and cpu: {self.func} was given host "
                f"tensors of shape {wrong}"
            )

    def _check_index(self) -> None:
        """Indices may come from the host, which costs an upload; a mask costs a read."""
        source, indices = self.args[0], self.args[1]
        if not isinstance(source, PretendTensor):
            raise RuntimeError("indices should be on the cpu: the indexed tensor is")
        for index in tensors_in([i for i in indices if i is not None]):
            if index.dtype in (torch.bool, torch.uint8):
                self.gpu.host_read("index by a mask")
            elif not isinstance(index, PretendTensor) and index.numel():
                self.gpu.host_waits("blocking upload", "index from the host")
        if len(self.args) > 2 and not isinstance(self.args[2], PretendTensor) and self.args[2].numel() != 1:
            raise RuntimeError(f"{self.func}: values on the cpu for a tensor on cuda:0")

    # -------------------------------------------------------------------------------------- copies

    def _converted(self) -> Any:
        """`tensor.to(device, ...)`."""
        source, is_async = self.args[0], bool(self.kwargs.get("non_blocking"))
        if isinstance(source, PretendTensor) == self.to_gpu:
            return self._launched() if self.to_gpu else self._on_host()
        if self.to_gpu:
            self._note_upload(source, is_async)
            return self._launched()
        if not is_async:
            self.gpu.host_waits("blocking download", "to")
            return self.func(source.inner, **self._bare(self.kwargs))
        # torch allocates pinned memory for it
        found = self.gpu.copies.pin(self.func(source.inner, **self._bare(self.kwargs)))
        self._queue_download(found, found)
        return found

    def _copied(self) -> Any:
        """`target.copy_(source)` between host and device."""
        target, source = self.args[:2]
        is_async = bool(self.kwargs.get("non_blocking", self.args[2] if len(self.args) > 2 else False))
        if isinstance(target, PretendTensor):
            self._note_upload(source, is_async)
            return self._launched()
        if is_async and self.gpu.copies.is_pinned(target):
            if self.gpu.capture is not None:
                raise NotImplementedError("a copy to the host inside a capture")
            self._queue_download(target, source.inner.expand(target.shape).to(target.dtype))
            return target
        self.gpu.host_waits("blocking download", "pinned copy_" if self.gpu.copies.is_pinned(target) else "copy_")
        return target.copy_(source.inner)

    def _note_upload(self, source: Tensor, is_async: bool) -> None:
        if not source.dim() and self.name == "aten::copy_":
            # a number is an argument of the launch
            return
        if is_async and self.gpu.copies.is_pinned(source):
            self.gpu.journal.note("async upload", self.name, place=False)
            if self.gpu.capture is None:
                self.gpu.copies.to_device(source)
        elif source.numel():
            self.gpu.host_waits("blocking upload", "pinned" if self.gpu.copies.is_pinned(source) else "pageable")

    def _queue_download(self, host: Tensor, values: Tensor) -> None:
        self.gpu.journal.note("async download", self.name, place=False)
        self.gpu.copies.to_host(host, values)

    # -------------------------------------------------------------------------------------- work

    def _bare(self, value: Any) -> Any:
        """Arguments for the CPU."""

        def bare(leaf: Any) -> Any:
            if isinstance(leaf, PretendTensor):
                return leaf.inner
            return CPU if isinstance(leaf, torch.device) else leaf

        return replaced(value, bare)

    def _launched(self) -> Any:
        """Run on the device: now, or in a capture at every replay."""
        args, kwargs, capture = self._bare(self.args), self._bare(self.kwargs), self.gpu.capture
        if self.name in ALLOCATIONS:
            return self._allocated(args, kwargs)
        if capture is None or not written(self.func) or self.name in FREE:
            found = self.work(*args, **kwargs)
        else:
            # not now: what a capture writes to is written by its replay
            found = [args[place] if isinstance(place, int) else kwargs[place] for place in written(self.func)]
            found = found[0] if len(found) == 1 else tuple(found)
        if self._is_work(args, kwargs, found):
            self.gpu.journal.note("launch", self.name, place=False)
            if capture is not None:
                given = replaced((args, kwargs), self._baked)
                capture.add(Node(str(self.func), self.work, *given, None if written(self.func) else found))
        return self._wrapped(found)

    def _allocated(self, args: tuple, kwargs: dict) -> Any:
        found = self.func(*args, **kwargs)
        if self.gpu.capture is None:
            poison(found)
        else:
            # values that later work of the capture can take as indices
            self.gpu.capture.own([found.zero_()])
        return self._wrapped(found)

    def _is_work(self, args: tuple, kwargs: dict, found: Any) -> bool:
        """False for a view, which costs nothing."""
        if self.name in FREE:
            return False
        if written(self.func) or not self.on_gpu:
            return True
        given = {t.untyped_storage().data_ptr() for t in (*tensors_in(args), *tensors_in(kwargs))}
        return any(t.numel() and t.untyped_storage().data_ptr() not in given for t in tensors_in(found))

    def _baked(self, leaf: Any) -> Any:
        """A number from the host keeps the value that it had."""
        is_number = isinstance(leaf, Tensor) and not leaf.dim() and any(leaf is t for t in self.on_host)
        return leaf.clone() if is_number else leaf

    def _wrapped(self, found: Any) -> Any:
        """Results as tensors of the device; one that was given stays the object that it is."""
        given = {id(t.inner): t for t in self.on_gpu}

        def wrap(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return given[id(leaf)] if id(leaf) in given else PretendTensor(leaf, self.gpu)

        if self.on_gpu and not any(t.is_inference() for t in self.on_gpu):
            # a view of a tensor from outside of inference mode is none of inference mode either
            with torch.inference_mode(False):
                return replaced(found, wrap)
        return replaced(found, wrap)
