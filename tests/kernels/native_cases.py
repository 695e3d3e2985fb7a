"""Models and caches in odd sizes for the compiled decode step, and its gap to torch's step."""

from __future__ import annotations

import torch

from kvrepro.cache.slots import CompressedCache
from kvrepro.engine.decoders.fused import FusedDecoder
from kvrepro.engine.decoders.native import NativeDecoder

from ..conftest import make_random_model

# hidden, query heads, KV heads, channels, MLP width: multiples of no vector, groups of 1 to 9
SIZES = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size")
SHAPES = {
    "H48-Q6-K2-D8-I96": (48, 6, 2, 8, 96),
    "H50-Q5-K1-D10-I13": (50, 5, 1, 10, 13),
    "H64-Q8-K8-D16-I40": (64, 8, 8, 16, 40),
    "H36-Q9-K1-D22-I100": (36, 9, 1, 22, 100),
    "H96-Q6-K3-D64-I200": (96, 6, 3, 64, 200),
    "H130-Q2-K1-D128-I7": (130, 2, 1, 128, 7),
}
# slots held before the step: one, around the length of a chunk (256), several chunks
LENGTHS = [1, 255, 5, 256, 257, 513, 2, 64, 300, 511, 17]
CAPACITY = 520
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
X86_LEVELS = ("x86-64-v2", "x86-64-v3")


def model_of(kind, shape, dtype=torch.float32, **overrides):
    model = make_random_model(kind, **dict(zip(SIZES, shape, strict=True)), **overrides)
    # weights only, as a checkpoint is loaded: `model.to` would round the frequencies of the rotation as well
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


class RoundingCache(CompressedCache):
    """Float32 storage of what a bfloat16 cache would hold."""

    def append(self, layer, keys, values):
        return super().append(layer, keys.bfloat16().float(), values.bfloat16().float())


def filled(model, lengths, poison, kind=CompressedCache):
    """A cache with one row more than there are lengths; what is not in use holds `poison`."""
    cache = kind(model.config, len(lengths) + 1, CAPACITY, dtype=model.dtype)
    s, generator = cache.shape, torch.Generator().manual_seed(3)
    stored = torch.randn(2, s.layers, len(lengths), s.kv_heads, CAPACITY, s.head_dim, generator=generator)
    # the same numbers whatever the dtype of the cache
    stored = stored.bfloat16().float()
    for row, n in enumerate(lengths):
        keys, values = stored[:, :, row, :, :n]
        cache.admit(keys, values)
        cache.kv[:, :, row, :, n:] = poison
    cache.kv[:, :, len(lengths) :] = poison
    return cache


def gap(found, wanted):
    return ((found.float() - wanted.float()).abs().max() / wanted.float().abs().max()).item()


@torch.inference_mode()
def compare(model, lengths, steps=3):
    """Relative gaps of logits, hidden states and what is stored to torch's float32 step on the same weights."""
    native, native_cache = NativeDecoder(model), filled(model, lengths, torch.nan)
    exact = type(model)(model.config).eval()
    exact.load_state_dict(model.state_dict())
    torch_cache = filled(exact, lengths, 0.0, CompressedCache if model.dtype == torch.float32 else RoundingCache)
    fused, gaps = FusedDecoder(exact), []
    for step in range(steps):
        tokens = torch.arange(len(lengths)) + 20 + step
        wanted, found = fused.step(tokens, torch_cache), native.step(tokens, native_cache)
        gaps += [gap(f, w) for f, w in zip(found, wanted, strict=True)]
        assert (native_cache.lengths, native_cache.seen) == (torch_cache.lengths, torch_cache.seen)
    for row, n in enumerate(native_cache.lengths):
        gaps.append(gap(native_cache.kv[:, :, row, :, :n], torch_cache.kv[:, :, row, :, :n]))
        assert native_cache.kv[:, :, row, :, n:].isnan().all(), "a slot beyond the row's own was written"
    assert native_cache.kv[:, :, len(lengths)].isnan().all(), "a row that is not live was written"
    return gaps
