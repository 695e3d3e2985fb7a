"""The tensor that says it lies on `cuda:0`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .cuda import PretendCuda

DEVICE = torch.device("cuda", 0)


class PretendTensor(torch.Tensor):
    """Metadata of a CUDA tensor around a CPU tensor, `inner`, that holds the values.

    Every operation goes through the mode of its `PretendCuda`; outside of it there is none.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl

    inner: torch.Tensor
    gpu: PretendCuda

    @staticmethod
    def __new__(cls, inner: torch.Tensor, gpu: PretendCuda) -> PretendTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=DEVICE,
        )
        made.inner, made.gpu = inner, gpu
        return made

    # the metaclass of tensors calls it with what `__new__` was given
    def __init__(self, inner: torch.Tensor, gpu: PretendCuda):
        pass

    def __repr__(self) -> str:
        return f"PretendTensor({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        raise RuntimeError(f"{func}: a tensor of the pretend device was used outside of it")

    def tolist(self) -> Any:
        """Values as Python numbers: the host waits for them."""
        self.gpu.host_read("tolist")
        return self.inner.tolist()

    def numpy(self, **_: Any) -> Any:
        """As torch: not without a copy."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it first")

    def untyped_storage(self) -> torch.UntypedStorage:
        """Where the values lie."""
        return self.inner.untyped_storage()

    def data_ptr(self) -> int:
        """Address of the first value."""
        return self.inner.data_ptr()

    @property
    def data(self) -> PretendTensor:
        """The same values; assigning those of another tensor points this one at them."""
        return PretendTensor(self.inner, self.gpu)

    @data.setter
    def data(self, other: PretendTensor) -> None:
        if (other.shape, other.stride(), other.dtype) != (self.shape, self.stride(), self.dtype):
            raise RuntimeError("the pretend device assigns data of the same shape, strides and dtype only")
        self.inner = other.inner
