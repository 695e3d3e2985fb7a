"""What `kvrepro bench` measures: variants, settings and the stretches that they need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .reply_time import Reply

# of a decode step, from left to right in figures
SPLIT_PARTS = ("attention", "projections", "mlp", "head", "other", "score", "evict", "sample", "host")

# local window of DynTS, its ratio per model, and its batch (docs/budgets.md#published-settings)
PAPER_WINDOW, PAPER_RATIOS, PAPER_ROWS = 2000, {"r1-llama-8b": 0.3, "r1-qwen-7b": 0.4}, 20

GENERATE, REFERENCE, KVPRESS = "generate", "reference", "kvpress"
WINDOW, DYNTS, TORCH_DYNTS = "window", "dynts", "dynts_torch"
VARIANTS = (GENERATE, REFERENCE, KVPRESS, WINDOW, DYNTS, TORCH_DYNTS)
# variant -> method and decoder: the last one runs on torch's products, as the baselines do
OURS = {WINDOW: ("window", "auto"), DYNTS: ("dynts", "auto"), TORCH_DYNTS: ("dynts", "fused")}
# a step at given positions is timed longer than the others: all that is asked there is whether it changes
POSITION_STEPS = 4
TITLES = {
    GENERATE: "transformers.generate, full cache",
    REFERENCE: "reference-style loop",
    KVPRESS: "kvpress DecodingPress",
    WINDOW: "kvrepro window",
    DYNTS: "kvrepro dynts (untrained head)",
    TORCH_DYNTS: "kvrepro dynts, torch's products",
}


@dataclass(frozen=True)
class BenchSettings:
    """Sizes of one comparison, the `plan` of a measured file.

    Attributes:
        batches: rows decoded together; measured in this order, so that what matters most is done first.
        budgets: slots that remain after an eviction.
        prompt, new_tokens: tokens per row.
        evict_every: tokens between evictions, for every variant.
        long_tokens, long_budget, long_batch: the setting in which the reply grows further.
        positions: output tokens before a step whose time should not depend on them.
        rounds: how often everything is measured, variants in turn.
        steps, warm_up: of one stretch.
        confirm_tokens, confirm_batch, confirm_budget: whole replies beside the sum over stretches; 0 tokens: none.
        clock: `wall` or `cpu`, of the seconds by part.
    """

    batches: tuple[int, ...] = (8, 1, 32)
    budgets: tuple[int, ...] = (256, 512, 1024)
    prompt: int = 64
    new_tokens: int = 2048
    evict_every: int = 128
    long_tokens: int = 8192
    long_budget: int = 512
    long_batch: int = 8
    positions: tuple[int, ...] = (1024, 2048, 4096, 8192)
    rounds: int = 5
    steps: int = 3
    warm_up: int = 1
    confirm_tokens: int = 512
    confirm_batch: int = 8
    confirm_budget: int = 256
    clock: str = "wall"

    def reply(self, variant: str, budget: int, new_tokens: int) -> Reply:
        """What a row goes through; the full cache knows no budget."""
        return Reply(self.prompt, new_tokens, None if variant == GENERATE else budget, self.evict_every)

    def requests(self, variant: str, batch: int) -> list[dict[str, Any]]:
        """Requests to a worker that serve every setting of this batch.

        Loops over a DynamicCache cost the same at a length whatever the budget, so their lengths serve all budgets;
        our storage has the size of its budget and is measured in each.
        """
        base = {"rows": batch, "evict_every": self.evict_every}
        used = self.steps + self.warm_up

        def steps(length: int, budget: int | None, steps: int = self.steps, **more: int) -> dict[str, Any]:
            found = {"op": "steps", "length": length, "budget": budget, **more, **base}
            return found | {"steps": steps, "warm_up": self.warm_up}

        if variant == GENERATE:
            lengths = [self.prompt, (self.prompt + self.new_tokens) // 2, self.prompt + self.new_tokens - used]
            if batch == self.long_batch and self.long_tokens > self.new_tokens:
                half = (self.new_tokens + self.long_tokens) // 2
                lengths += [half, self.prompt + self.long_tokens - used]
            return [steps(n, None) for n in lengths]
        ends = {b: b + self.evict_every - used for b in self.budgets}
        if variant in OURS:
            found = [steps(n, b) for b, end in ends.items() for n in sorted({self.prompt, b, end})]
            if batch == self.long_batch:
                half = self.evict_every // 2
                longer = max(1, min(POSITION_STEPS * self.steps, half - self.warm_up))
                found += [steps(self.long_budget + half, self.long_budget, longer, seen=n) for n in self.positions]
        else:
            found = [steps(self.prompt, self.budgets[0]), *(steps(end, b) for b, end in ends.items())]
        return found + [{"op": "eviction", "budget": budget, "repeats": 2, **base} for budget in self.budgets]

    def split_request(self, batch: int) -> dict[str, Any]:
        """Where the time of a step of `dynts` goes, at a budget that is measured."""
        budget = self.long_budget if self.long_budget in self.budgets else self.budgets[-1]
        request = {"op": "split", "rows": batch, "budget": budget, "evict_every": self.evict_every, "length": budget}
        return request | {"steps": min(16, self.evict_every - 1), "clock": self.clock}

    def reply_request(self, variant: str) -> dict[str, Any]:
        """Whole replies, whose time is set beside the sum over stretches."""
        budget = None if variant == GENERATE else self.confirm_budget
        request = {"op": "reply", "rows": self.confirm_batch, "prompt": self.prompt, "new_tokens": self.confirm_tokens}
        return request | {"budget": budget, "evict_every": self.evict_every}
