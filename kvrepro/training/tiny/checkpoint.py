"""The two tiny architectures, a Llama and a Qwen2 with R1-Distill's traits at a thousandth of its size, and files."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from ...benchmarks.chains.language import BOS, EOS, PAD, build_tokenizer, vocabulary
from ...files import write_json

TINY_MODELS = {"tiny-r1-llama": (LlamaConfig, LlamaForCausalLM), "tiny-r1-qwen": (Qwen2Config, Qwen2ForCausalLM)}
CARD_FILE = "training.json"


def build_model(name: str, seed: int):
    """A freshly initialised model: grouped-query attention with 3 query heads per KV head, about 1.6 M weights.

    Raises:
        ValueError: the name is not one of `TINY_MODELS`.
    """
    if name not in TINY_MODELS:
        raise ValueError(f"model={name!r}: tiny models are {', '.join(TINY_MODELS)}")
    config, model = TINY_MODELS[name]
    table = vocabulary()
    torch.manual_seed(seed)
    return model(
        config(
            vocab_size=len(table),
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            max_position_embeddings=2048,
            rms_norm_eps=1e-6,
            bos_token_id=table[BOS],
            eos_token_id=table[EOS],
            pad_token_id=table[PAD],
            # Qwen2's own default, and it brings the bias on queries, keys and values
            **({"head_dim": 32} if config is LlamaConfig else {}),
        )
    )


def save_checkpoint(model, folder: Path, card: dict[str, object]) -> None:
    """Save weights (float32), tokenizer, template, generation defaults of R1-Distill and the training card."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = {name: getattr(model.config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.95, top_k=20, **ids)
    model.to(torch.float32).save_pretrained(folder, safe_serialization=True)
    build_tokenizer().save_pretrained(folder)
    write_json(folder / CARD_FILE, card)
