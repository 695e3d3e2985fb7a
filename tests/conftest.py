"""Shared fixtures: results go to a temporary folder, and small random models of both families."""

from __future__ import annotations

import signal

import pytest

from kvrepro.cli import main

# needs Chromium and minutes: `make test-browser`, or the folder by its name
collect_ignore = ["browser"]


@pytest.fixture(autouse=True, scope="session")
def _signals_of_a_foreground_job():
    """A shell gives background jobs an ignored SIGINT, `nohup` an ignored SIGHUP; what tests start inherits both."""
    defaults = {"SIGINT": signal.default_int_handler, "SIGHUP": signal.SIG_DFL}
    for name, handler in defaults.items():
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _results_in_tmp(tmp_path, monkeypatch):
    """No test writes into the checkout's results."""
    monkeypatch.setenv("KVREPRO_RESULTS", str(tmp_path / "results"))


def has_compiler() -> bool:
    """Whether the compiled decode step can be built here; where it can, failing to is a failure."""
    from kvrepro.kernels.native.library import NativeUnavailableError, find_compiler

    try:
        find_compiler()
    except NativeUnavailableError:
        return False
    return True


def make_random_model(kind: str, **overrides):
    """A 2-layer grouped-query model with random weights large enough that attention is far from uniform."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    sizes = (
        dict(
            vocab_size=230,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=6,
            num_key_value_heads=2,
            initializer_range=0.15,
            eos_token_id=2,
            bos_token_id=1,
            pad_token_id=0,
        )
        | overrides
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes)) if kind == "llama" else Qwen2ForCausalLM(Qwen2Config(**sizes))
    return model.eval()


@pytest.fixture(scope="session", params=["llama", "qwen2"])
def random_model(request):
    """Both families."""
    return make_random_model(request.param)


@pytest.fixture(scope="session")
def random_models():
    """Both families by name, for tests that spread their cases over them."""
    return {kind: make_random_model(kind) for kind in ("llama", "qwen2")}


@pytest.fixture
def call(capsys):
    """Run the command line in this process: `(exit code, stdout, stderr)`."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
