"""The published shapes: sizes of a model from its configuration alone, and models of that shape with random weights.

Configurations of the table's Hub models are kept here, so that a plan can be made without the network. They are the
published `config.json` values; where the Hub's copy is in the local cache, that one is used. Speed does not depend on
what weights hold, so a shape is enough to time it. Loads without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..cache.shape import CacheShape
from ..errors import KvreproError, check_known
from .failures import explained
from .table import MODELS, ModelEntry, fetched_name

_QWEN = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "bos_token_id": 151643}
_QWEN2 = _QWEN | {"model_type": "qwen2", "use_sliding_window": False, "eos_token_id": 151643}
_R1_QWEN = _QWEN2 | {"rope_theta": 10000.0, "max_position_embeddings": 131072}
_QWEN3 = _QWEN | {"model_type": "qwen3", "rope_theta": 1e6, "head_dim": 128, "eos_token_id": 151645}
_QWEN3 |= {"max_position_embeddings": 40960}
_LLAMA = {"model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5}
_R1_LLAMA = _LLAMA | {"rope_theta": 500000.0, "max_position_embeddings": 131072}
_R1_LLAMA |= {"bos_token_id": 128000, "eos_token_id": 128001, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}
_R1_LLAMA["rope_scaling"] |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_SMOLLM2 = _LLAMA | {"rope_theta": 100000.0, "max_position_embeddings": 8192, "bos_token_id": 1, "eos_token_id": 2}

_SIZES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("vocab_size", "tie_word_embeddings"),
)
# model -> what its family shares, and the columns of _SIZES
_TABLE = {
    "r1-qwen": (_R1_QWEN, 3584, 18944, 28, 28, 4, 152064, False),
    "r1-qwen-1.5b": (_R1_QWEN, 1536, 8960, 28, 12, 2, 151936, False),
    "r1-llama": (_R1_LLAMA, 4096, 14336, 32, 32, 8, 128256, False),
    "qwen3-8b": (_QWEN3, 4096, 12288, 36, 32, 8, 151936, False),
    "qwen3-4b": (_QWEN3, 2560, 9728, 36, 32, 8, 151936, True),
    "smollm2-135m": (_SMOLLM2, 576, 1536, 30, 9, 3, 49152, True),
}
CONFIGS: dict[str, dict[str, Any]] = {
    name: {**family, **dict(zip(_SIZES, sizes, strict=True))} for name, (family, *sizes) in _TABLE.items()
}

# true shapes, name on the command line -> row of the model table
SHAPES = {"r1-llama-8b": "r1-llama", "r1-qwen-7b": "r1-qwen"}

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


def published_config(name: str, **changes: Any):
    """The published configuration of a model of the table, with other values where `changes` names some."""
    from transformers import AutoConfig

    values = CONFIGS[name] | changes
    return AutoConfig.for_model(values.pop("model_type"), **values)


def true_shape(name: str):
    """Configuration of R1-Distill-Llama-8B (`r1-llama-8b`) or R1-Distill-Qwen-7B (`r1-qwen-7b`); else
    `UnknownNameError`.
    """
    check_known("model shape", SHAPES, name)
    # no token ends a row, so that every step has all rows
    return published_config(SHAPES[name], bos_token_id=None, eos_token_id=None)


def bench_shape():
    """Configuration of the 135M Llama shape that `kvrepro bench` decodes with on a CPU."""
    longer = {"max_position_embeddings": 16384, "rope_theta": 10000.0, "rms_norm_eps": 1e-6}
    return published_config("smollm2-135m", **longer)


def build(config, device: str, dtype: str):
    """A model of that shape in a dtype such as `bfloat16`, initialised at random on the device itself."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()


def weight_bytes(model, *, of_a_step: bool = False) -> int:
    """Bytes of a model's weights; of those that a decode step reads, all but an embedding table that is no head too."""
    table = model.get_input_embeddings().weight
    is_left = of_a_step and model.get_output_embeddings().weight is not table
    return sum(p.numel() * p.element_size() for p in model.parameters() if not (is_left and p is table))


def model_config(entry: ModelEntry):
    """The configuration: of the folder, of the local Hub cache, of the table above, or asked from the Hub.

    Raises `KvreproError` where none of these has it.
    """
    from transformers import AutoConfig

    common = {"revision": entry.revision, "trust_remote_code": False}
    if entry.is_folder:
        return AutoConfig.from_pretrained(entry.source)
    try:
        return AutoConfig.from_pretrained(entry.source, local_files_only=True, **common)
    except (OSError, ValueError):
        pass
    is_published = fetched_name(entry) or (entry.name in MODELS and MODELS[entry.name].source == entry.source)
    if is_published and entry.name in CONFIGS:
        return published_config(entry.name)
    try:
        return AutoConfig.from_pretrained(entry.source, **common)
    except (OSError, ValueError) as error:
        raise KvreproError(explained(entry, error)) from error


def model_dtype(entry: ModelEntry, config) -> str:
    """Name of the dtype that weights and cache have; `auto` is the checkpoint's, else float32."""
    return entry.dtype if entry.dtype != "auto" else str(config.dtype or "float32").removeprefix("torch.")


@lru_cache(maxsize=32)
def model_size(entry: ModelEntry) -> ModelSize:
    """Sizes of one row of the table, counted on a model without storage."""
    from torch import nn

    config = model_config(entry)
    shape, text = CacheShape.of(config), config.get_text_config(decoder=True)
    model = build(config, "meta", model_dtype(entry, config))
    element, head, saved = model.dtype.itemsize, model.get_output_embeddings(), 0.0
    if entry.quantisation is not None:
        # the head and the embeddings stay as they are; every other matrix is quantised
        inner = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear) and m is not head)
        saved = inner * (element - _QUANTISED_BYTES[entry.quantisation])
    return ModelSize(
        parameters=sum(p.numel() for p in model.parameters()),
        weights_bytes=int(weight_bytes(model) - saved),
        step_weights_bytes=int(weight_bytes(model, of_a_step=True) - saved),
        kv_bytes_per_token=2 * shape.layers * shape.kv_heads * shape.head_dim * element,
        hidden=text.hidden_size,
        max_positions=text.max_position_embeddings,
        vocabulary=text.vocab_size,
        element_bytes=element,
    )
