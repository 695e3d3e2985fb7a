"""What only Triton's interpreter shows of `decode_attention`: a script for a process of its own, which prints JSON."""

from __future__ import annotations

import json
import random

import torch
from kvrepro.kernels.checks import decode_attention as checks
from kvrepro.kernels.checks.common import exact, poisoned_storage
from kvrepro.kernels.decode_attention import decode_attention, plan_chunks
from triton.runtime.interpreter import InterpreterBuilder

draw = random.Random(0)
in_order = InterpreterBuilder.set_grid_idx


def some_lengths(rows: int, span: int) -> list[int]:
    """Empty, full, and in between, with many short rows."""
    kinds = (lambda: 0, lambda: 1, lambda: span, lambda: draw.randint(0, span), lambda: draw.randint(0, span // 20 + 1))
    return [draw.choice(kinds)() for _ in range(rows)]


def plan() -> dict:
    """A plan of random lengths."""
    rows, span = draw.choice([1, 2, 7, 20, 40, 130]), draw.choice([1, 128, 129, 2501, 8192, 16384, 30000])
    lengths, units = some_lengths(rows, span), draw.choice([None, rows, rows + 1, 3 * rows + 5])
    with poisoned_storage():
        made = plan_chunks(torch.zeros(1).expand(rows, 2, span, 16), torch.tensor(lengths), units=units, impl="triton")
    return dict(
        rows=rows,
        span=span,
        lengths=lengths,
        starts=made.starts.tolist(),
        row_of=made.row_of.tolist(),
        counters=made.counters.tolist(),
        most=made.most,
    )


def case() -> dict:
    """Errors of a random case."""
    rows, span = draw.choice([1, 3, 6]), draw.choice([130, 400, 700])
    lengths = " ".join(map(str, some_lengths(rows, span)))
    units = draw.choice([None, rows, rows + 2])
    made = checks.Case(rows, span, 2, draw.choice([1, 3]), 32, "fp32", lengths, draw.choice([None, "all"]), units)
    with poisoned_storage():
        return dict(case=str(made), errors=checks.errors(made, "cpu", "triton"))


def backwards() -> float:
    """0 where programs in reverse order give the same bits."""
    torch.manual_seed(0)
    lengths = torch.tensor([650, 0, 130, 700])
    query, keys, values = torch.randn(4, 6, 32), torch.randn(4, 2, 700, 32), torch.randn(4, 2, 700, 32)
    first, _ = decode_attention(query, keys, values, lengths, 0.2, impl="triton")

    def from_behind(self, x, y, z):
        in_order(self, *(n - 1 - i for n, i in zip(self.grid_dim, (x, y, z), strict=True)))

    InterpreterBuilder.set_grid_idx = from_behind
    second, _ = decode_attention(query, keys, values, lengths, 0.2, impl="triton")
    InterpreterBuilder.set_grid_idx = in_order
    return exact(first, second)


def plans_of_others() -> float:
    """Largest error with plans of other lengths."""
    torch.manual_seed(0)
    query, keys, values = torch.randn(3, 4, 32), torch.randn(3, 2, 600, 32), torch.randn(3, 2, 600, 32)
    lengths = torch.tensor([600, 0, 200])
    wanted, _ = decode_attention(query, keys, values, lengths, 0.2, impl="reference")
    worst = 0.0
    for others in ([0, 600, 0], [600, 600, 600], [1, 1, 1]):
        other = plan_chunks(keys, torch.tensor(others), impl="triton")
        found, _ = decode_attention(query, keys, values, lengths, 0.2, plan=other, impl="triton")
        worst = max(worst, float((found - wanted).abs().max()))
    return worst


def neighbours() -> dict[str, bool]:
    """Whether a row keeps its bits when its neighbours grow, by the kind of plan."""
    torch.manual_seed(0)
    query, keys, values = torch.randn(3, 4, 32), torch.randn(3, 2, 600, 32), torch.randn(3, 2, 600, 32)
    rows = {}
    for chunk in (None, 256):
        for beside in (1, 600):
            lengths = torch.tensor([500, beside, beside])
            made = plan_chunks(keys, lengths, chunk=chunk, units=None if chunk else 5, impl="triton")
            out, _ = decode_attention(query, keys, values, lengths, 0.2, plan=made, impl="triton")
            rows[chunk, beside] = out[0]
    return {str(chunk): bool(torch.equal(rows[chunk, 1], rows[chunk, 600])) for chunk in (None, 256)}


if __name__ == "__main__":
    found = dict(
        plans=[plan() for _ in range(60)],
        cases=[case() for _ in range(12)],
        backwards=backwards(),
        others=plans_of_others(),
        neighbours=neighbours(),
    )
    print(json.dumps(found))
