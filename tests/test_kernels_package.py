"""The folder `kernels/` at the root must not disturb transformers, which probes for a package of that name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kvrepro.paths import PACKAGE

ROOT = PACKAGE.parent
TINY_FORWARD = """
import kernels, pathlib
assert pathlib.Path(kernels.__file__).parent == pathlib.Path.cwd() / "kernels", kernels.__file__
import torch
from transformers import LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                                     num_attention_heads=4, num_key_value_heads=2)).eval()
logits = model(torch.tensor([[1, 2, 3]])).logits
assert logits.shape == (1, 3, 32) and logits.isfinite().all()
import kvrepro.kernels
print("version", kvrepro.kernels.__version__)
"""


def test_transformers_runs_a_llama_with_the_folder_on_the_path():
    if not (ROOT / "kernels" / "__init__.py").is_file():
        pytest.skip("kvrepro is installed without its checkout, so there is no folder that could shadow anything")
    done = subprocess.run([sys.executable, "-c", TINY_FORWARD], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("version ")


def test_kernels_are_importable_under_the_package_and_carry_a_version():
    import kvrepro.kernels
    from kvrepro.kernels.reference import attention

    assert kvrepro.kernels.__version__.count(".") >= 1
    assert callable(attention.decode_attention)
    assert callable(attention.compact_slots)
