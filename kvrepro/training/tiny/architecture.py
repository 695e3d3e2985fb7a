"""The two tiny architectures: a Llama and a Qwen2 with R1-Distill's traits at a thousandth of its size."""

from __future__ import annotations

from ...benchmarks.chains.language import BOS, EOS, PAD, vocabulary

TINY_MODELS = ("tiny-r1-llama", "tiny-r1-qwen")

_SHARED = dict(
    hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2,
    tie_word_embeddings=True, max_position_embeddings=2048, rms_norm_eps=1e-6,
)  # fmt: skip


def build_model(name: str, seed: int):
    """A freshly initialised model: grouped-query attention with 3 query heads per KV head, about 1.6 M weights.

    Raises:
        ValueError: the name is not one of `TINY_MODELS`.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    if name not in TINY_MODELS:
        raise ValueError(f"model={name!r}: tiny models are {', '.join(TINY_MODELS)}")
    table = vocabulary()
    tokens = dict(bos_token_id=table[BOS], eos_token_id=table[EOS], pad_token_id=table[PAD])
    torch.manual_seed(seed)
    if name == "tiny-r1-llama":
        return LlamaForCausalLM(LlamaConfig(vocab_size=len(table), head_dim=32, **_SHARED, **tokens))
    # Qwen2 brings the bias on queries, keys and values
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=len(table), **_SHARED, **tokens))
