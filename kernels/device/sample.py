"""Triton code of `sample`: the best k of each chunk of the vocabulary, then filter and draw among them."""

from __future__ import annotations

import triton
import triton.language as tl

from .common import wait_for_predecessor

GOLDEN: tl.constexpr = tl.constexpr(0x9E3779B97F4A7C15)
MIX_1: tl.constexpr = tl.constexpr(0xBF58476D1CE4E5B9)
MIX_2: tl.constexpr = tl.constexpr(0x94D049BB133111EB)
# below every packed value
NOTHING: tl.constexpr = tl.constexpr(-(2**63))


@triton.jit
def _splitmix(key, counter):
    """SplitMix64 finaliser of `key + (counter + 1) * golden`, unsigned 64 bit.

    Reference: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    x = key + (counter + 1) * GOLDEN
    x = (x ^ (x >> 30)) * MIX_1
    x = (x ^ (x >> 27)) * MIX_2
    return x ^ (x >> 31)


@triton.jit
def _pack(value, token):
    """A float32 and its token as one int64 that orders by value, then by the smaller token."""
    bits = value.to(tl.int32, bitcast=True)
    # two's complement order for negative floats too
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - token).to(tl.int64)


@triton.jit
def chunk_kernel(
    logits,
    packed,
    chunk_max,
    chunk_sum,
    size,
    n_chunks,
    logit_row,
    scale,
    TOP: tl.constexpr,
    CHUNK: tl.constexpr,
    WITH_SUM: tl.constexpr,
    PDL: tl.constexpr,
):
    """The `TOP` largest of one chunk of one row, packed with their tokens, in descending order.

    With `WITH_SUM` also `max x` and `sum exp(x - max x)` of the chunk, `x = logit / temperature`, for a nucleus that
    is measured on the whole distribution.
    """
    wait_for_predecessor(PDL)
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    token = part * CHUNK + tl.arange(0, CHUNK)
    live = token < size
    value = tl.load(logits + row * logit_row + token, mask=live, other=float("-inf")).to(tl.float32)
    # either sign of NaN has to come out on top, as in torch, for the row to be seen as not finite
    value = tl.where(value != value, float("inf"), value)
    if WITH_SUM:
        x = tl.div_rn(value, scale)
        peak = tl.max(x, 0)
        tl.store(chunk_max + row * n_chunks + part, peak)
        total = tl.sum(tl.where(live, tl.exp(x - peak), 0.0), 0)
        # a chunk of nothing but -inf adds nothing to the sum
        tl.store(chunk_sum + row * n_chunks + part, tl.where(peak > float("-inf"), total, 0.0))
    left = tl.where(live, _pack(value, token), NOTHING)
    for place in range(TOP):
        best = tl.max(left, 0)
        tl.store(packed + (row * n_chunks + part) * TOP + place, best)
        left = tl.where(left == best, NOTHING, left)


@triton.jit
def draw_kernel(
    packed,
    chunk_max,
    chunk_sum,
    keys,
    steps,
    tokens,
    n_candidates,
    n_chunks,
    scale,
    top_p,
    TOP: tl.constexpr,
    TOP_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNKS_PAD: tl.constexpr,
    NUCLEUS: tl.constexpr,
    PDL: tl.constexpr,
):
    """Merge the chunks of one row, apply temperature and top-p, and draw: `argmax_t (x_t + gumbel(key, step, t))`.

    `NUCLEUS`: 0 none, 1 measured within the top k, 2 measured on the whole distribution. A token stays while the
    mass before it is below `top_p`.

    Reference: Gumbel-max (Gumbel 1954); the noise is a hash of (key, step, token), see
    `kvrepro.kernels.reference.sampling`.
    """
    wait_for_predecessor(PDL)
    row = tl.program_id(0).to(tl.int64)
    offset = tl.arange(0, BLOCK)
    left = tl.load(packed + row * n_candidates + offset, mask=offset < n_candidates, other=NOTHING)
    place = tl.arange(0, TOP_PAD)
    top = tl.full([TOP_PAD], NOTHING, tl.int64)
    for at in range(TOP):
        best = tl.max(left, 0)
        top = tl.where(place == at, best, top)
        left = tl.where(left == best, NOTHING, left)
    ordered = (top >> 32).to(tl.int32)
    value = tl.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).to(tl.float32, bitcast=True)
    token = (0x7FFFFFFF - (top & 0xFFFFFFFF)).to(tl.int64)
    live = top != NOTHING
    x = tl.where(live, tl.div_rn(value, scale), float("-inf"))
    if NUCLEUS > 0:
        if NUCLEUS == 1:
            peak = tl.max(x, 0)
            total = tl.sum(tl.exp(x - peak), 0)
        else:
            part = tl.arange(0, CHUNKS_PAD)
            peaks = tl.load(chunk_max + row * n_chunks + part, mask=part < n_chunks, other=float("-inf"))
            sums = tl.load(chunk_sum + row * n_chunks + part, mask=part < n_chunks, other=0.0)
            peak = tl.max(peaks, 0)
            total = tl.sum(sums * tl.exp(peaks - peak), 0)
        p = tl.exp(x - (peak + tl.log(total)))
        before = tl.cumsum(p, 0) - p
        x = tl.where(before >= top_p, float("-inf"), x)
    key = tl.load(keys + row).to(tl.uint64, bitcast=True)
    step = tl.load(steps + row).to(tl.uint64, bitcast=True)
    mixed = _splitmix(_splitmix(key, step), token.to(tl.uint64, bitcast=True))
    uniform = ((mixed >> 41).to(tl.int32).to(tl.float32) + 0.5) * (1.0 / 8388608.0)
    score = tl.where(live, x - tl.log(-tl.log(uniform)), float("-inf"))
    chosen = tl.argmax(score, 0)
    drawn = tl.sum(tl.where(place == chosen, token, 0), 0)
    # NaN or +inf somewhere, or nothing but -inf: no token can be drawn
    largest = tl.max(tl.where(live, value, float("-inf")), 0)
    is_finite = (largest > float("-inf")) & (largest < float("inf"))
    tl.store(tokens + row, tl.where(is_finite, drawn, -1))
