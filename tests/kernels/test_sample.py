"""`sample`: the Triton code in the interpreter, the twin token for token against the engine's sampler, bad input."""

from __future__ import annotations

import pytest
import torch
from kvrepro.kernels.reference.sampling import mix
from kvrepro.kernels.sample import sample

from kvrepro.engine.requests import SamplingConfig
from kvrepro.engine.sampling import sample_tokens

from .interpreter import assert_case, case_ids, needs_triton

STEM = "sample"


@needs_triton
@pytest.mark.parametrize("name", case_ids(STEM))
def test_kernel_equals_its_twin(name):
    assert_case(STEM, name)


@pytest.mark.parametrize("order", ["hf", "dynts"])
@pytest.mark.parametrize(("temperature", "top_p", "top_k"), [(0.6, 0.95, 20), (1.2, 0.7, 0), (0.8, 1.0, 5), (0, 1, 0)])
def test_the_twin_draws_the_tokens_of_the_engine(order, temperature, top_p, top_k):
    torch.manual_seed(0)
    logits = torch.randn(64, 300) * 3
    keys, steps = torch.randint(-(2**62), 2**62, (64,)), torch.randint(0, 9999, (64,))
    wanted = sample_tokens(logits, SamplingConfig(temperature, top_p, top_k, order), keys, steps)
    found = sample(logits, keys, steps, temperature=temperature, top_p=top_p, top_k=top_k, order=order)
    assert torch.equal(found, wanted)


def test_the_hash_is_splitmix64():
    torch.manual_seed(0)
    keys, counters = torch.randint(-(2**63), 2**63 - 1, (1000,)), torch.randint(0, 2**40, (1000,))

    def splitmix(key: int, counter: int) -> int:
        """As published, in whole numbers modulo 2 ** 64; returned with a sign."""
        x = (key + (counter + 1) * 0x9E3779B97F4A7C15) % 2**64
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        x ^= x >> 31
        return x - 2**64 if x >= 2**63 else x

    wanted = [splitmix(k, n) for k, n in zip(keys.tolist(), counters.tolist(), strict=True)]
    assert mix(keys, counters).tolist() == wanted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": torch.zeros(9)}, "logits has 1 dimensions"),
        ({"logits": torch.zeros(2, 9).long()}, "logits is torch.int64"),
        ({"keys": torch.zeros(3).long()}, "keys has size 3 in dimension 0, expected 2"),
        ({"steps": torch.zeros(2)}, "steps is torch.float32"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_k": -1}, "top_k=-1"),
        ({"order": "x"}, "order='x'; known are"),
        ({"top_k": 0, "impl": "triton"}, "top_k=0 is left to torch"),
    ],
)
def test_bad_input_is_named(changes, message):
    given = dict(logits=torch.zeros(2, 9), keys=torch.zeros(2).long(), steps=torch.zeros(2).long())
    with pytest.raises(ValueError, match=message):
        sample(**(given | changes))


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"top_k": 0}, {"top_k": 5, "top_p": 1.0}, {"order": "dynts"}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_without_finite_logits_get_no_token_and_the_others_keep_theirs(settings, dtype):
    torch.manual_seed(0)
    nan, inf = float("nan"), float("inf")
    sound = (torch.randn(6, 300) * 3).to(dtype)
    sound[4, ::2] = -inf
    logits = sound.clone()
    logits[0, 3], logits[1, -1], logits[2, 7], logits[3] = nan, -nan, inf, -inf
    keys, steps = torch.arange(6), torch.arange(6)
    values = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "order": "hf"} | settings
    config = SamplingConfig(values["temperature"], values["top_p"], values["top_k"], values["order"])
    found = sample_tokens(logits, config, keys, steps)
    assert found.tolist()[:4] == [-1] * 4
    assert torch.equal(found[4:], sample_tokens(sound, config, keys, steps)[4:])
    assert (found[4:] >= 0).all() and found[4] % 2 == 1
    assert torch.equal(found, sample(logits, keys, steps, **values))
