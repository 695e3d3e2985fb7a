"""What the compiled step reads: structures of addresses and sizes, laid out as those of `decode_step.cpp`."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_double, c_float, c_int32, c_int64, c_void_p

from torch import Tensor

PRODUCTS = ("query", "key", "value", "out", "gate", "up", "down")

Product = tuple[Tensor, Tensor | None]


class LinearArgs(Structure):
    """A product: address of the weight `[out, in]`, of the bias or null, and both sizes."""

    _fields_ = [("weight", c_void_p), ("bias", c_void_p), ("out", c_int32), ("in_", c_int32)]

    @classmethod
    def of(cls, pair: Product) -> LinearArgs:
        """The structure of a weight and its bias, which must outlive it."""
        weight, bias = pair
        return cls(address(weight), None if bias is None else address(bias), *weight.shape)


class LayerArgs(Structure):
    """One decoder layer: its norms, its products and the factor on dot products."""

    _fields_ = [
        ("input_norm", c_void_p),
        ("mlp_norm", c_void_p),
        *((name, LinearArgs) for name in PRODUCTS),
        ("input_eps", c_float),
        ("mlp_eps", c_float),
        ("scaling", c_float),
    ]


class StepArgs(Structure):
    """A stretch of layers for one step: sizes, the cache's slots with their strides in elements, and buffers."""

    _fields_ = [
        ("layers", POINTER(LayerArgs)),
        ("first_layer", c_int32),
        ("end_layer", c_int32),
        ("rows", c_int32),
        ("span", c_int32),
        ("threads", c_int32),
        ("hidden", c_int32),
        ("q_heads", c_int32),
        ("kv_heads", c_int32),
        ("head_dim", c_int32),
        ("intermediate", c_int32),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("layer_stride", c_int64),
        ("row_stride", c_int64),
        ("head_stride", c_int64),
        ("slot_stride", c_int64),
        ("slots", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("x", c_void_p),
        ("scratch", c_void_p),
        ("queries", c_void_p),
        ("mass", c_void_p),
        ("seconds", POINTER(c_double)),
        ("clock", c_int32),
    ]


class HeadArgs(Structure):
    """The last norm and the product that gives logits."""

    _fields_ = [
        ("norm", c_void_p),
        ("eps", c_float),
        ("head", LinearArgs),
        ("rows", c_int32),
        ("threads", c_int32),
        ("x", c_void_p),
        ("scratch", c_void_p),
        ("hidden", c_void_p),
        ("logits", c_void_p),
    ]


def address(tensor: Tensor) -> int:
    """Where the tensor's first element lies."""
    return tensor.data_ptr()
