"""`kvrepro calibrate`: TriAttention's query statistics of a model, from its own traces or from a plain text."""

from __future__ import annotations

import argparse
from typing import Any

from ..models.identity import weights_fingerprint
from .arguments import add_source_arguments, collect, opened


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, where to put the statistics, and what to measure on."""
    add_source_arguments(parser, "query_statistics", problems=200)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the sequences through the model, average its queries, write them with their card."""
    from ..methods.learned.query_statistics import save_statistics
    from ..training.query_statistics import measure_statistics

    entry, folder, model, tokenizer = opened(args, "calibration")
    sequences, source = collect(args, entry, model, tokenizer, "train", args.problems)
    statistics = measure_statistics(model, (s.token_ids for s in sequences))
    n_tokens = sum(len(s.token_ids) for s in sequences)
    card = {
        "model": entry.name,
        "weights": weights_fingerprint(entry),
        "source": source,
        "n_sequences": len(sequences),
        "n_tokens": n_tokens,
        "seed": args.seed,
    }
    save_statistics(statistics, folder, card)
    # near 1: the heads' queries point the same way whatever the token, which is what the method relies on
    share = (statistics.mean.abs().sum() / statistics.mean_size.sum()).item()
    print(f"{n_tokens} tokens of {len(sequences)} sequences; |E q| / E|q| = {share:.3f}; statistics in {folder}")
    return {"folder": str(folder), "n_tokens": n_tokens, "concentration": round(share, 4)}
