"""RPC: compress the thought in blocks, to a fixed share of what was written."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..errors import KvreproError
from .query_window import QueryWindowMethod
from .views import EvictionView, layers_of


class RPCMethod(QueryWindowMethod):
    """Pooled attention of the last `obs_window` queries over the thought, mean over all heads of a layer.

    As published the budget is the number of tokens P between two compressions (1024), of which a share (a quarter,
    `ratio`) stays: the cache GROWS by that share with every compression, beside the prompt. In the fair protocol the
    budget is what remains, as for every other method.

    Source: RPC (Reasoning Path Compression), `rpc/rpc_utils.py`; docs/methods.md#rpc.
    Deviates: all `obs_window` queries count once (in the code the newest counts twice and the oldest not at all).
    """

    name = "rpc"
    source = "jiwonsong-dev/ReasoningPathCompression"
    pool = "avg"

    granularity: str = "layer"
    pin_question: bool = True
    obs_window: int = 32
    pool_kernel: int = 7

    @property
    def is_growing(self) -> bool:
        """As published."""
        return self.schedule.kept is not None

    @property
    def _sizes(self) -> tuple[int, int, int]:
        """Tokens between compressions, tokens kept of each, window: undoes `budgets.growing`."""
        s = self.schedule
        return s.budget - s.window + 1, s.kept - s.window, s.window

    def peak_slots(self, n_prompt: int, evictions: int) -> int:
        """As published, prompt + what was kept so far + P + window."""
        if not self.is_growing:
            return super().peak_slots(n_prompt, evictions)
        block, share, window = self._sizes
        return n_prompt + evictions * share + block + window

    def kept_slots(self, view: EvictionView) -> Sequence[int] | Tensor:
        """As published, the prompt, a share of every block so far, and the window."""
        if not self.is_growing:
            return super().kept_slots(view)
        _, share, window = self._sizes
        host = view.host
        return [n + (before + 1) * share + window for n, before in zip(host.n_prompt, host.evictions, strict=True)]

    def capacity_slots(self, longest_prompt: int, max_new_tokens: int) -> int:
        """As published, the peak of the last block that a reply can reach."""
        if not self.is_growing:
            return super().capacity_slots(longest_prompt, max_new_tokens)
        block, _, window = self._sizes
        compressions = max(0, max_new_tokens - window) // block
        return min(self.peak_slots(longest_prompt, compressions), longest_prompt + max_new_tokens)

    def check_prompt(self, n_prompt: int) -> None:
        """A growing cache has room for any prompt."""
        if not self.is_growing:
            super().check_prompt(n_prompt)
        elif not self.pin_question:
            raise KvreproError("pin_question=False: rpc as published never touches the prompt; use protocol=fair")

    def score_layers(self, view: EvictionView, layers: slice) -> Tensor:
        """`[l, R, 1, S]`."""
        question = layers_of(view.is_question, layers)
        scores = self.attention_scores(view, layers, also_hidden=question, total=True)
        return self.smoothed(scores.mean(2, keepdim=True), view)
