"""What the parts of `gpu-check` measure: budgets, lengths and steps, in the published shapes or in small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...models.shapes import SHAPES, published_config, true_shape
from ..settings import PAPER_WINDOW

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# a model whose steps take no time on a CPU, with heads that are grouped as the published ones are
_SMALL_SHAPE = dict(
    vocab_size=230,
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
)


@dataclass(frozen=True)
class Sizes:
    """Tokens, slots, rows and counts.

    Attributes:
        first: budgets of the part `decode`; baselines are measured at the mean slots of their rows.
        budgets, others: further budgets of `dynts`, and other methods at the last budget of `first`.
        window: of `dynts`; `evict_every`: of the other methods.
        prompt_tokens: slots that count as a row's prompt, for methods that pin it.
        longest: tokens that the full cache is measured up to; `real_steps`: of the one real run.
        most_rows: the largest batch that is tried.
        steps, warm_up, repeats: of one stretch, and how often it is repeated.
        replays: steps that the profiler looks at.
        logits_rows: batches whose logits are compared; `logits_steps`: steps between what happens to their rows.
        questions, reply_tokens: of the replies that are compared with a CPU's; `cell_problems`: of a cell's.
        cases: checks per kernel, None for all; `timed_kernels`: those that are timed, None for all.
    """

    small: bool = False
    first: tuple[int, ...] = (2500, 5000)
    budgets: tuple[int, ...] = (3000, 3500, 4000, 4500, 5500, 6000)
    others: tuple[str, ...] = ("window", "snapkv", "rkv", "h2o")
    window: int = PAPER_WINDOW
    evict_every: int = 128
    prompt_tokens: int = 200
    longest: int = 16384
    real_steps: int = 16384
    most_rows: int = 512
    steps: int = 16
    warm_up: int = 3
    repeats: int = 3
    replays: int = 3
    logits_rows: tuple[int, ...] = (1, 3, 20, 40)
    logits_steps: int = 6
    questions: int = 12
    reply_tokens: int = 420
    cell_problems: int = 20
    cases: int | None = None
    timed_kernels: tuple[str, ...] | None = None

    def shape(self, name: str, **changes: int) -> PretrainedConfig:
        """A published shape, or a small model of its family under its name."""
        if not self.small and not changes:
            return true_shape(name)
        small = _SMALL_SHAPE if self.small else {}
        return published_config(SHAPES[name], bos_token_id=None, eos_token_id=None, **small | changes)


FULL = Sizes()
SMALL = Sizes(
    small=True,
    first=(60, 90),
    budgets=(70,),
    others=("window", "h2o"),
    window=40,
    evict_every=24,
    prompt_tokens=10,
    longest=144,
    real_steps=150,
    most_rows=3,
    steps=4,
    warm_up=1,
    repeats=2,
    logits_rows=(1, 3, 40),
    logits_steps=2,
    questions=2,
    reply_tokens=230,
    cell_problems=2,
    cases=2,
    timed_kernels=("sample",),
)
