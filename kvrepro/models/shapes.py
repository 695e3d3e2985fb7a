"""Sizes of a model from its configuration alone: parameters, weight bytes, KV bytes a token; no weights needed.

Configurations of the table's Hub models are kept here, so that a plan can be made without the network. They are the
published `config.json` values; where the Hub's copy is in the local cache, that one is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..cache.shape import CacheShape
from ..errors import KvreproError
from .table import FETCHED, MODELS, ModelEntry

_QWEN2 = {"model_type": "qwen2", "rms_norm_eps": 1e-6, "use_sliding_window": False, "hidden_act": "silu",
          "bos_token_id": 151643, "eos_token_id": 151643}  # fmt: skip
_QWEN3 = {"model_type": "qwen3", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "head_dim": 128, "hidden_act": "silu",
          "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 151936,
          "max_position_embeddings": 40960, "bos_token_id": 151643, "eos_token_id": 151645}  # fmt: skip
_LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192}  # fmt: skip

CONFIGS: dict[str, dict[str, Any]] = {
    "r1-qwen": {
        **_QWEN2, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False, "rope_theta": 10000.0,
        "max_position_embeddings": 131072,
    },
    "r1-qwen-1.5b": {
        **_QWEN2, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": False, "rope_theta": 10000.0,
        "max_position_embeddings": 131072,
    },
    "r1-llama": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
        "rope_theta": 500000.0, "rope_scaling": _LLAMA3_ROPE, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "max_position_embeddings": 131072, "bos_token_id": 128000, "eos_token_id": 128001,
    },
    "qwen3-8b": {**_QWEN3, "hidden_size": 4096, "intermediate_size": 12288, "tie_word_embeddings": False},
    "qwen3-4b": {**_QWEN3, "hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True},
    "smollm2-135m": {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
        "rope_theta": 100000.0, "rms_norm_eps": 1e-5, "hidden_act": "silu", "max_position_embeddings": 8192,
        "bos_token_id": 1, "eos_token_id": 2,
    },
}  # fmt: skip

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# weights of a quantised linear layer, with its scales (bitsandbytes: 8 bit + row scale; nf4/fp4 + one scale per 64)
_QUANTISED_BYTES = {"8bit": 1.0, "4bit": 0.5 + 4 / 64}


@dataclass(frozen=True)
class ModelSize:
    """Sizes in bytes and tokens of one model in the dtype it runs in, an element of which has `element_bytes`.

    `step_weights_bytes` is what a decode step reads: all weights but an embedding table that is not the head as well.
    """

    parameters: int
    weights_bytes: int
    step_weights_bytes: int
    kv_bytes_per_token: int
    hidden: int
    max_positions: int
    vocabulary: int
    element_bytes: int


def model_config(entry: ModelEntry):
    """The configuration: of the folder, of the local Hub cache, of the table above, or asked from the Hub.

    Raises:
        KvreproError: none of these has it.
    """
    from transformers import AutoConfig

    common = {"revision": entry.revision, "trust_remote_code": False}
    if entry.is_folder:
        return AutoConfig.from_pretrained(entry.source)
    try:
        return AutoConfig.from_pretrained(entry.source, local_files_only=True, **common)
    except (OSError, ValueError):
        pass
    row = MODELS.get(entry.name)
    known = row is not None and (row.source == entry.source or row.source.startswith(FETCHED))
    if known and entry.name in CONFIGS:
        values = dict(CONFIGS[entry.name])
        return AutoConfig.for_model(values.pop("model_type"), **values)
    try:
        return AutoConfig.from_pretrained(entry.source, **common)
    except (OSError, ValueError) as error:
        from .loading import _explained

        raise KvreproError(_explained(entry, error)) from error


def model_dtype(entry: ModelEntry, config) -> str:
    """Name of the dtype that weights and cache have; `auto` is the checkpoint's, else float32."""
    return entry.dtype if entry.dtype != "auto" else str(config.dtype or "float32").removeprefix("torch.")


def model_size(entry: ModelEntry) -> ModelSize:
    """Sizes of one row of the table, counted on a model without storage."""
    return _size(entry.name, entry.source, entry.revision, entry.dtype, entry.quantisation)


@lru_cache(maxsize=32)
def _size(name: str, source: str, revision: str | None, dtype: str, quantisation: str | None) -> ModelSize:
    entry = ModelEntry(name, name, source, dtype, revision, quantisation=quantisation)
    import torch
    from transformers import AutoModelForCausalLM

    config = model_config(entry)
    shape = CacheShape.of(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    element = _BYTES[model_dtype(entry, config)]
    parameters = sum(p.numel() for p in model.parameters())
    weights = parameters * element
    if entry.quantisation is not None:
        # the head and the embeddings stay as they are; every other matrix is quantised
        kept = {id(model.get_output_embeddings())}
        inner = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and id(m) not in kept)
        weights = int(weights - inner * element + inner * _QUANTISED_BYTES[entry.quantisation])
    text = config.get_text_config(decoder=True)
    table = model.get_input_embeddings().weight
    tied = model.get_output_embeddings().weight is table
    return ModelSize(
        parameters=parameters,
        weights_bytes=weights,
        step_weights_bytes=weights - (0 if tied else table.numel() * element),
        kv_bytes_per_token=2 * shape.layers * shape.kv_heads * shape.head_dim * element,
        hidden=text.hidden_size,
        max_positions=text.max_position_embeddings,
        vocabulary=text.vocab_size,
        element_bytes=element,
    )
