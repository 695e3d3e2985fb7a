"""What several kernels share."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def wait_for_predecessor(PDL: tl.constexpr):
    """Let the next kernel of the stream be launched, then wait until the one before has ended and its stores show.

    With programmatic dependent launch a kernel starts before its predecessor has ended. Every kernel that takes `PDL`
    calls this in all its programs before it reads or writes anything that another kernel writes or reads; before it
    stand at most loads of what no kernel writes. See docs/kernels.md.

    Source: griddepcontrol in the PTX ISA.
    """
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
def dot(a, b, PRECISION: tl.constexpr):
    """`a @ b` with float32 sums.

    `PRECISION`: `ieee` or `tf32` for the GPU (which only matters for float32 operands); `widened` for Triton's
    interpreter, which keeps bfloat16 as bare 16-bit integers and would multiply those. Widening is exact, so the
    operands still carry the rounding of their dtype.
    """
    if PRECISION == "widened":
        product = tl.dot(a.to(tl.float32), b.to(tl.float32))
    else:
        product = tl.dot(a, b, input_precision=PRECISION)
    return product
