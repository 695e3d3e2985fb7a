"""ForesightKV's judge: a small head per layer and KV head that says which slots to drop, and what it reads."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import KvreproError
from .folder import LEARNED, read_learned, write_learned

WIDTH = 16
FEATURES = 8  # per query head
RECENT = (16, 8, 32)  # queries of the three short sums
DECAY = 0.9  # of the running sum, per block


def add_block(running: Tensor, decayed: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Carry the two long sums, `[..., S]`, over one more block of attention, `[..., q, S]`."""
    block = mass.sum(-2)
    return running + block, DECAY * decayed + block


def attention_features(mass: Tensor, running: Tensor, decayed: Tensor) -> Tensor:
    """The eight features of a slot and query head, `[..., S, 8]`: max, min and sum over the block, three short sums,
    two long ones.

    `mass` `[..., q, S]`: attention of the block's queries, oldest first. `running`, `decayed` `[..., S]`: sums over
    everything before the block and the block itself.
    """
    short = [mass[..., -n:, :].sum(-2) for n in RECENT]
    return torch.stack([mass.amax(-2), mass.amin(-2), mass.sum(-2), *short, running, decayed], dim=-1)


def judge_features(keys: Tensor, values: Tensor, attention: Tensor) -> Tensor:
    """What the judge reads, `[..., H, S, 2 D + 8 G]` float32: keys and values `[..., H, S, D]`, features `[..., H, G,
    S, 8]`.
    """
    return torch.cat([keys.float(), values.float(), attention.transpose(-3, -2).flatten(-2)], dim=-1)


class EvictionJudge(nn.Module):
    """`[k; v; attention features] -> 16, GELU -> 1`, weights of its own per layer and KV head.

    Source: ForesightKV, arXiv 2602.03203; docs/predictor.md#eviction-judge (its declared layer norm is not applied).
    """

    def __init__(self, layers: int, kv_heads: int, head_dim: int, group: int):
        super().__init__()
        size = 2 * head_dim + FEATURES * group
        self.sizes = {"layers": layers, "kv_heads": kv_heads, "head_dim": head_dim, "group": group}
        self.inner = nn.Parameter(torch.randn(layers, kv_heads, size, WIDTH) / size**0.5)
        self.inner_bias = nn.Parameter(torch.zeros(layers, kv_heads, WIDTH))
        self.outer = nn.Parameter(torch.randn(layers, kv_heads, WIDTH) / WIDTH**0.5)
        self.outer_bias = nn.Parameter(torch.zeros(layers, kv_heads))

    def forward(self, features: Tensor, layers: slice) -> Tensor:
        """Eviction scores of some layers: `[l, R, H, S, F]` -> `[l, R, H, S]`, higher leaves first."""
        inner = torch.einsum("lrhsf,lhfw->lrhsw", features, self.inner[layers])
        inner = nn.functional.gelu(inner + self.inner_bias[layers][:, None, :, None])
        return torch.einsum("lrhsw,lhw->lrhs", inner, self.outer[layers]) + self.outer_bias[layers][:, None, :, None]


def save_judge(judge: EvictionJudge, folder: Path, card: dict[str, object]) -> None:
    """Write safetensors and a card, whole or not at all."""
    write_learned(folder, judge.state_dict(), {"sizes": judge.sizes, **card})


def load_judge(folder: str | Path) -> EvictionJudge:
    """Read a judge from its folder; `KvreproError` where there is none or its tensors do not fit its card."""
    stored, card = read_learned("judge", folder)
    try:
        judge = EvictionJudge(**card["sizes"])
        judge.load_state_dict(stored)
    except (KeyError, TypeError, RuntimeError) as error:
        remedy = LEARNED["judge"].remedy
        raise KvreproError(f"the eviction judge in {folder} does not fit its card ({error}): {remedy}") from error
    return judge.eval()
