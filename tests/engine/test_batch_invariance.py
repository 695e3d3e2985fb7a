"""What of a reply does not depend on its batch: bit for bit where a decoder says so, and drawn tokens in float32."""

from __future__ import annotations

import random

import pytest
import torch

from kvrepro.engine.decoders.choose import DECODERS, make_decoder
from kvrepro.engine.engine import Engine
from kvrepro.engine.observer import KeptPositions
from kvrepro.engine.requests import Request, SamplingConfig
from kvrepro.methods.table import create_method
from kvrepro.models.tokens import ThinkTags

from ..conftest import has_compiler, make_random_model
from ..method_cases import BUDGET, fair

PROMPTS = [[1, *random.Random(i).choices(range(20, 200), k=5 + 7 * i)] for i in range(5)]
HERE = [kind for kind in DECODERS if kind != "auto" and (kind != "native" or has_compiler())]


def run(model, decoder: str, rows: int, method: str) -> dict[str, tuple]:
    """Reply, kept positions and every step's logits of each prompt."""
    seen: dict[str, list[torch.Tensor]] = {}

    class Look(KeptPositions):
        def logits(self, live, logits):
            for row, own in zip(live, logits, strict=True):
                seen.setdefault(row.completion.request.problem_id, []).append(own.clone())

    sizes = {} if method == "full" else {"budget": BUDGET, **fair(method)}
    engine = Engine(
        model,
        create_method(method, **sizes),
        ThinkTags(()),
        (),
        sampling=SamplingConfig(),
        batch_rows=rows,
        max_new_tokens=30,
        decoder=decoder,
        observer=Look(),
    )
    done = {c.request.problem_id: c for c in engine.run(Request(str(i), 0, tuple(p)) for i, p in enumerate(PROMPTS))}
    return {name: (c.token_ids, c.kept_positions, torch.stack(seen[name])) for name, c in done.items()}


def test_every_decoder_says_whether_it_is_batch_invariant():
    model = make_random_model("llama")
    said = {kind: make_decoder(model, kind).batch_invariant for kind in HERE}
    assert said == {kind: kind == "native" for kind in HERE}


@pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler here, and no other decoder promises it")
@pytest.mark.parametrize("method", ["full", "rkv", "h2o"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_step_gives_a_row_the_same_bits_in_any_batch(dtype, method):
    model = make_random_model("qwen2").to(dtype)
    alone = run(model, "native", 1, method)
    for rows in (2, 5):
        for name, (tokens, kept, logits) in run(model, "native", rows, method).items():
            assert (tokens, kept) == alone[name][:2]
            assert torch.equal(logits, alone[name][2])


@pytest.mark.parametrize("decoder", [kind for kind in HERE if kind != "native"])
def test_in_float32_torchs_products_draw_the_same_tokens(decoder):
    model = make_random_model("llama")
    alone = run(model, decoder, 1, "rkv")
    for name, (tokens, kept, logits) in run(model, decoder, 3, "rkv").items():
        assert (tokens, kept) == alone[name][:2]
        torch.testing.assert_close(logits, alone[name][2], rtol=1e-4, atol=1e-4)
