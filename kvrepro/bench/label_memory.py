"""Extra memory of labelling one layer, measured in a process of its own: `python -m kvrepro.bench.label_memory`.

The shape defaults to one layer of R1-Distill-Llama-8B at 16,384 tokens with 1,000 answer tokens. Accumulators are
vectors over tokens, so further layers add nothing (with `keep_heads`, 4 bytes x query heads x tokens each).
"""

from __future__ import annotations

import argparse
import json

import torch

from ..cache.probes import AnswerAttention
from .laps import peak_rss_bytes, timed


def measure(
    n_tokens: int, answer_tokens: int, q_heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype
) -> dict[str, float]:
    """Extra bytes and seconds of one layer; queries and keys of the layer itself exist before and are not counted."""
    generator = torch.Generator().manual_seed(0)
    # made in their own dtype: a larger copy freed before would hide what is measured
    query = torch.randn(1, q_heads, n_tokens, head_dim, generator=generator, dtype=dtype)
    key = torch.randn(1, kv_heads, n_tokens, head_dim, generator=generator, dtype=dtype)
    # the product once in small, so that a library's own buffers are not taken for ours
    AnswerAttention(32).observe(0, query[:, :, :64], key[:, :, :64], head_dim**-0.5)
    # not the process's maximum by getrusage: a child begins with its parent's, which would hide what is measured
    before, attention = peak_rss_bytes(), AnswerAttention(n_tokens - answer_tokens)
    ms = timed(lambda: attention.observe(0, query, key, head_dim**-0.5))["wall"]
    return {
        "extra_bytes": peak_rss_bytes() - before,
        "seconds": round(ms / 1e3, 2),
        "label_sum": round(float(attention.labels.sum()), 4),
        "full_matrix_bytes": 4 * q_heads * n_tokens**2,
    }


def main(argv: list[str] | None = None) -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m kvrepro.bench.label_memory", description=__doc__)
    sizes = {"tokens": 16384, "answer-tokens": 1000, "q-heads": 32, "kv-heads": 8, "head-dim": 128}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args(argv)
    found = measure(
        args.tokens, args.answer_tokens, args.q_heads, args.kv_heads, args.head_dim, getattr(torch, args.dtype)
    )
    print(json.dumps({**vars(args), **found}))


if __name__ == "__main__":
    main()
