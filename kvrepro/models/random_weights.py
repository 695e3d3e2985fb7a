"""Models in the true shapes of the published ones with random weights: speed does not depend on the values."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from ..errors import check_known
from .shapes import published_config

# name on the command line -> row of the model table
SHAPES = {"r1-llama-8b": "r1-llama", "r1-qwen-7b": "r1-qwen"}


def true_shape(name: str) -> PretrainedConfig:
    """Configuration of `r1-llama-8b` (R1-Distill-Llama-8B) or `r1-qwen-7b` (R1-Distill-Qwen-7B).

    Raises:
        UnknownNameError: no such shape.
    """
    check_known("model shape", SHAPES, name)
    # no token ends a row, so that every step has all rows
    return published_config(SHAPES[name], bos_token_id=None, eos_token_id=None)


def bench_shape() -> PretrainedConfig:
    """Configuration of the 135M Llama shape that `kvrepro bench` decodes with on a CPU."""
    longer = {"max_position_embeddings": 16384, "rope_theta": 10000.0, "rms_norm_eps": 1e-6}
    return published_config("smollm2-135m", **longer)


def build(config: PretrainedConfig, device: str, dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    """A model of that shape, initialised on the device itself."""
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def step_weight_bytes(model: PreTrainedModel) -> int:
    """Bytes of weights that a decode step reads: all but the embedding table, of which it reads one line per row."""
    table = model.get_input_embeddings().weight
    tied = model.get_output_embeddings().weight is table
    return sum(p.numel() * p.element_size() for p in model.parameters() if p is not table or tied)
