"""Write a tiny reasoner as an ordinary Hugging Face checkpoint: safetensors, tokenizer, template, card."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ...benchmarks.chains.language import EOS, PAD, build_tokenizer, vocabulary

CARD_FILE = "training.json"


def save_checkpoint(model, folder: Path, card: dict[str, object]) -> None:
    """Save weights (float32), tokenizer, generation defaults of R1-Distill and the training card."""
    from transformers import GenerationConfig

    folder.mkdir(parents=True, exist_ok=True)
    table = vocabulary()
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, top_p=0.95, top_k=20,
        bos_token_id=model.config.bos_token_id, eos_token_id=table[EOS], pad_token_id=table[PAD],
    )  # fmt: skip
    model.to(torch.float32).save_pretrained(folder, safe_serialization=True)
    build_tokenizer().save_pretrained(folder)
    (folder / CARD_FILE).write_text(json.dumps(card, indent=1) + "\n")
