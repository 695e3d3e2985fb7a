"""Train a tiny reasoner: `python -m kvrepro.training.tiny.train tiny-r1-llama`.

Three stages. First random sequences that repeat, which form look-up; then worked chains of growing length; then
chains that are verified in more and more passes, whose mistakes a later pass corrects. Resumable: the newest state is
written every minute and read at start.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from ...benchmarks.chains.language import BOS, EOS, NAMES, PAD, build_tokenizer, vocabulary
from ...benchmarks.chains.problems import MOST_PASSES
from ...errors import KvreproError
from ...files import write_json
from ...paths import CHECKPOINTS
from ..stages import TrainingState
from .batches import IGNORED, problem_batch, repeat_batch, sight

# a Llama and a Qwen2 with R1-Distill's traits at a thousandth of its size
TINY_MODELS = {"tiny-r1-llama": (LlamaConfig, LlamaForCausalLM), "tiny-r1-qwen": (Qwen2Config, Qwen2ForCausalLM)}
CARD_FILE = "training.json"
SAVE_EVERY_S = 60.0


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the weights besides code and versions."""

    model: str
    seed: int = 0
    repeat_steps: int = 1000
    problem_steps: int = 2800
    repeat_rows: int = 32
    repeat_length: int = 96  # tokens
    batch_tokens: int = 5000
    smallest: int = 4  # variables
    first_largest: int = 8  # variables, at the start of the curriculum
    largest: int = 22  # variables, from `curriculum_share` of the problem steps on
    curriculum_share: float = 0.4
    lr: float = 4e-3
    final_lr_share: float = 0.02
    warmup_steps: int = 50
    weight_decay: float = 0.01
    # the third stage, from here on
    long_steps: int = 800
    long_batch_tokens: int = 7000
    long_lr: float = 1.5e-3
    long_largest: int = 24  # variables
    most_passes: int = 5  # of verification, from `passes_share` of the long steps on
    passes_share: float = 0.4
    mistake_rate: float = 0.08  # of the lines that a later pass corrects
    turn_weight: float = 10.0  # in the loss, of the tokens that begin a pass and of the thought's end: 1 in 200
    longest: int = 1950  # tokens of an example
    blind_share: float = 0.6  # of the rows, how many see their thought as after an eviction
    smallest_window: int = 32  # of the newest tokens that such a row sees
    largest_window: int = 160

    def __post_init__(self) -> None:
        # a number that no problem can have would stop the third stage, after the other two
        least = {"largest": self.smallest, "long_largest": self.smallest, "most_passes": 0}
        for name, number in least.items():
            most = len(NAMES) if number else MOST_PASSES
            if not number <= getattr(self, name) <= most:
                raise KvreproError(f"{name}={getattr(self, name)}: {number} to {most}")

    @property
    def long_from(self) -> int:
        """The first step of the third stage, which has optimisers of its own."""
        return self.repeat_steps + self.problem_steps

    @property
    def total_steps(self) -> int:
        """Steps of all three stages."""
        return self.long_from + self.long_steps

    def passes(self, long_step: int) -> int:
        """Most passes of verification at a step of the third stage."""
        share = min(1.0, long_step / max(1, self.passes_share * self.long_steps))
        return min(self.most_passes, round(1 + share * (self.most_passes - 1)))

    def sizes(self, problem_step: int) -> tuple[int, int]:
        """Smallest and largest number of variables at a step of the problem stage."""
        share = min(1.0, problem_step / max(1, self.curriculum_share * self.problem_steps))
        return self.smallest, round(self.first_largest + share * (self.largest - self.first_largest))

    def learning_rate(self, step: int) -> float:
        """Warm-up at the start of each stage, constant over the repeats, a cosine over each of the other two."""
        if step < self.repeat_steps:
            return self.lr * min(1.0, (step + 1) / self.warmup_steps)
        first, n_steps, lr = self.repeat_steps, self.problem_steps, self.lr
        if step >= self.long_from:
            first, n_steps, lr = self.long_from, self.long_steps, self.long_lr
        done = (step - first) / max(1, n_steps)
        cosine = self.final_lr_share + (1 - self.final_lr_share) * 0.5 * (1 + math.cos(math.pi * done))
        return lr * cosine * min(1.0, (step - first + 1) / self.warmup_steps)


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


def train(
    recipe: Recipe,
    folder: Path,
    state_file: Path,
    threads: int = 1,
    *,
    start: Path | None = None,
    reschedule: bool = False,
) -> dict[str, object]:
    """Train to the end, or on from `state_file`; leaves an HF checkpoint in `folder` and returns its card.

    Args:
        start: a checkpoint that the first two stages made; only the third is trained.
        reschedule: go on from a state that was written with another number of long steps; the card says where.

    Raises:
        KvreproError: `state_file` belongs to another recipe, or `start` holds no checkpoint of two stages.
    """
    torch.set_num_threads(threads)
    model = build_model(recipe.model, recipe.seed)
    optimizers = build_optimizers(recipe, model)
    parts = {"model": model, "matrices": optimizers[0], "others": optimizers[1]}
    state = TrainingState(state_file, recipe, parts)
    done = {"step": 0, "curve": [], "seconds": 0.0, "changes": [], "recipe": asdict(recipe)}
    if start is not None:
        done |= _stage_before(start, recipe, model)
    done |= state.resume(may_differ="long_steps" if reschedule else None)
    first, curve, changes = done["step"], done["curve"], done["changes"]
    if (before := done["recipe"]["long_steps"]) != recipe.long_steps:
        changes.append({"step": first, "long_steps": [before, recipe.long_steps]})
    total = recipe.total_steps
    if first > total:
        raise KvreproError(f"{state_file} has done {first} of {total} steps: give more long steps")
    started = saved = time.monotonic()
    for step in tqdm(range(first, total), initial=first, total=total, desc=recipe.model, mininterval=5):
        if step == recipe.long_from:
            for optimizer in optimizers:
                optimizer.state.clear()
        loss, accuracy = train_step(recipe, model, optimizers, step)
        if step % 50 == 49 or step == total - 1:
            curve.append({"step": step + 1, "loss": round(loss, 5), "token_accuracy": round(accuracy, 5)})
            print(json.dumps(curve[-1]), flush=True)
        if time.monotonic() - saved > SAVE_EVERY_S:
            saved = time.monotonic()
            state.save(step=step + 1, curve=curve, seconds=done["seconds"] + saved - started, changes=changes)
    train_s = round(done["seconds"] + time.monotonic() - started)
    card = {"recipe": asdict(recipe), "schedule_changes": changes, "train_s": train_s, "curve": curve}
    save_checkpoint(model, folder, card)
    state_file.unlink(missing_ok=True)
    return card


def _stage_before(folder: Path, recipe: Recipe, model) -> dict[str, object]:
    """Load the weights of a checkpoint of the first two stages into `model` and return how far it had come."""
    path = folder / CARD_FILE
    if not path.is_file():
        raise KvreproError(f"{folder} holds no {CARD_FILE}: give a checkpoint of the first two stages")
    card = json.loads(path.read_text())
    given, wanted = card["recipe"], asdict(recipe)
    if given.get("long_steps"):
        raise KvreproError(f"{folder} has been through all three stages: give a checkpoint of the first two")
    for name in list(wanted)[: list(wanted).index("long_steps")]:
        if given[name] != wanted[name]:
            raise KvreproError(f"{folder} was trained with {name}={given[name]}, this run has {wanted[name]}")
    model.load_state_dict(type(model).from_pretrained(folder).state_dict())
    seconds, changes = card["train_s"], card["schedule_changes"]
    return {"step": recipe.long_from, "curve": card["curve"], "seconds": seconds, "changes": changes}


def build_optimizers(recipe: Recipe, model) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, norms and biases.

    Muon formed look-up about 100 steps earlier than AdamW alone in the repeat stage (steps 500 to 600).
    """
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    outer = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(inner, lr=recipe.lr, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=recipe.lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True),
    ]


def train_step(recipe: Recipe, model, optimizers, step: int) -> tuple[float, float]:
    """One optimiser step; the batch depends on (seed, step) alone, so a resumed run sees the same data."""
    key = recipe.seed * 1_000_003 + step
    generator, seen = torch.Generator().manual_seed(key), None
    if step < recipe.repeat_steps:
        ids, labels = repeat_batch(generator, recipe.repeat_rows, recipe.repeat_length)
        weights = torch.ones(ids.shape)
    elif step >= recipe.long_from:
        passes, sizes = recipe.passes(step - recipe.long_from), (recipe.smallest, recipe.long_largest)
        ids, labels, weights = problem_batch(
            random.Random(key),
            recipe.long_batch_tokens,
            sizes,
            most_passes=passes,
            mistake_rate=recipe.mistake_rate,
            turn_weight=recipe.turn_weight,
            longest=recipe.longest,
        )
        windows = (recipe.smallest_window, recipe.largest_window)
        seen = sight(generator, ids, labels, recipe.blind_share, windows)
    else:
        sizes = recipe.sizes(step - recipe.repeat_steps)
        ids, labels, weights = problem_batch(random.Random(key), recipe.batch_tokens, sizes)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate(step)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids, attention_mask=seen, use_cache=False).logits
    logits, targets = logits[:, :-1].float(), labels[:, 1:]
    counted = targets != IGNORED
    each = torch.nn.functional.cross_entropy(logits[counted], targets[counted], reduction="none")
    loss = (each * weights[:, 1:][counted]).sum() / counted.sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item(), (logits.argmax(-1) == targets)[counted].float().mean().item()


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m kvrepro.training.tiny.train", description=__doc__)
    parser.add_argument("model", choices=TINY_MODELS)
    parser.add_argument("--out", type=Path, help="checkpoint folder (default: the one the package ships)")
    parser.add_argument("--state", type=Path, help="resume file (default: beside the folder)")
    parser.add_argument("--start", type=Path, help="a checkpoint of the first two stages; only the third is trained")
    parser.add_argument("--reschedule", action="store_true", help="go on with another --long-steps")
    parser.add_argument("--threads", type=int, default=1)
    for field in fields(Recipe)[1:]:
        name = field.name.replace("_", "-")
        parser.add_argument(f"--{name}", type=type(field.default), default=field.default)
    args = parser.parse_args(argv)
    given = {field.name: getattr(args, field.name) for field in fields(Recipe)}
    folder = args.out or CHECKPOINTS / args.model
    state = args.state or folder.with_name(f"{folder.name}.state")
    try:
        card = train(Recipe(**given), folder, state, args.threads, start=args.start, reschedule=args.reschedule)
    except KvreproError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on from what was last saved in {state}", file=sys.stderr)
        raise SystemExit(130) from None
    print(json.dumps({"model": args.model, "folder": str(folder), "train_s": card["train_s"], **card["curve"][-1]}))


if __name__ == "__main__":
    main()
