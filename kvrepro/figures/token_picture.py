"""A trace as text, each token shaded by its importance, struck where an eviction took it away, step by step.

Model text is untrusted: in a page it is data of a script that knows text only, matplotlib draws it without mathtext.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb

from ..errors import KvreproError

# what a page needs beside the data of a picture
ASSETS = Path(__file__).parent / "assets"
SCRIPT, STYLE = ASSETS / "token_picture.js", ASSETS / "token_picture.css"
QUESTION, THOUGHT, ANSWER = "question", "thought", "answer"
# shades from pale to strong; the number of steps is what an eye can tell apart. Dark text is read on each of them
SHADES = ("#fff7ec", "#fee8c8", "#fdd49e", "#fdbb84", "#fca069", "#fb8858", "#f3714a")
ROLE_COLOURS = {QUESTION: "#dbe9f6", ANSWER: "#e2f0d9"}
TEXT, FADED_TEXT = "#1a1a1a", "#55534f"
_KEPT_OF_A_FADED_SHADE = 0.45


@dataclass(frozen=True)
class TokenPicture:
    """Everything a drawing needs.

    Attributes:
        tokens: text of each token, in order.
        roles: `question`, `thought` or `answer` (the think-end tag is the answer's).
        importance: a score per token, None where none was made; only thinking tokens are shaded.
        kept: per eviction the positions it kept, ascending; empty for a full cache.
        title: what stands above. caption: what is said below, where the picture stands on a page.
        budget: KV slots per row that the method was given; None for a full cache, or where nothing was decoded.
    """

    tokens: Sequence[str]
    roles: Sequence[str]
    importance: Sequence[float | None]
    kept: Sequence[Sequence[int]] = ()
    title: str = ""
    caption: str = ""
    budget: int | None = None

    def __post_init__(self) -> None:
        n_tokens = len(self.tokens)
        if len(self.roles) != n_tokens or len(self.importance) != n_tokens:
            raise KvreproError(
                f"{n_tokens} tokens, {len(self.roles)} roles and {len(self.importance)} scores: one each is needed"
            )
        if any(len(kept) == 0 or max(kept) >= n_tokens for kept in self.kept):
            raise KvreproError("an eviction kept nothing, or a position that is no token of this sequence")

    @property
    def lost_at(self) -> list[int | None]:
        """Per token the number (from 1) of the eviction that took it away; None for tokens that stayed."""
        lost: list[int | None] = [None] * len(self.tokens)
        held, newest = set(), -1
        for number, kept in enumerate(self.kept, start=1):
            # the window is always kept, so the last kept position is the newest token at that eviction
            held.update(range(newest + 1, max(kept) + 1))
            for position in held.difference(kept):
                lost[position] = number
            held, newest = set(kept), max(kept)
        return lost

    @property
    def shades(self) -> list[int | None]:
        """Per thinking token its step in `SHADES`, by rank within the thought; None for the others."""
        thought = [s if role == THOUGHT else None for s, role in zip(self.importance, self.roles, strict=True)]
        ranked = sorted(s for s in thought if s is not None)

        def step(score: float) -> int:
            return min(len(SHADES) - 1, (bisect_right(ranked, score) - 1) * len(SHADES) // max(1, len(ranked) - 1))

        return [None if score is None else step(score) for score in thought]

    def colours(self) -> Iterator[tuple[str, str]]:
        """Per token the colour behind it and its own, as they stand on white; of lost ones the faded shade."""
        for role, shade, lost in zip(self.roles, self.shades, self.lost_at, strict=True):
            fill = ROLE_COLOURS.get(role, "#ffffff") if shade is None else SHADES[shade]
            yield (fill, TEXT) if lost is None else (_faded(fill), FADED_TEXT)

    def data(self) -> dict[str, Any]:
        """What `kvrepro.draw` of the script takes.

        `roles` has a letter per token; `sizes` are the tokens of the sequence at each eviction.
        """
        return {
            "title": self.title,
            "caption": self.caption,
            "budget": self.budget,
            "tokens": [_visible(token) for token in self.tokens],
            "roles": "".join(role[0] for role in self.roles),
            "shades": self.shades,
            "importance": [
                None if score is None or not math.isfinite(score) else float(f"{score:.4g}")
                for score in self.importance
            ],
            "lost_at": self.lost_at,
            # the window is always kept, so the last kept position is the newest token at that eviction
            "sizes": [max(kept) + 1 for kept in self.kept],
        }

    def html(self) -> str:
        """A block that holds its script and styles and loads nothing; several may stand in a document."""
        return pictures_html([self])


def pictures_html(pictures: Sequence[TokenPicture]) -> str:
    """As `TokenPicture.html`, of pictures side by side that share one slider."""
    call = f"kvrepro.draw(document.currentScript.previousElementSibling, {script_json([p.data() for p in pictures])})"
    return (
        f"<div><style>{_asset(STYLE)}</style><div>Drawn by a script: in JupyterLab, trust the notebook to see it.</div>"
        f"<script>{_asset(SCRIPT)}\n{call}</script></div>"
    )


def script_json(content: Mapping | Sequence) -> str:
    """JSON that may stand in a script, in a file or inside a page, whatever its texts hold."""
    # `</script>` and `<!--` would end or change an inline script; json.dumps leaves no character beyond ASCII
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


@cache
def _asset(path: Path) -> str:
    return path.read_text()


def _faded(colour: str) -> str:
    return to_hex([1 - _KEPT_OF_A_FADED_SHADE * (1 - channel) for channel in to_rgb(colour)])


def picture_of(
    tokenizer,
    token_ids: Sequence[int],
    n_prompt: int,
    answer_from: int,
    importance: Sequence[float] | None = None,
    kept: Sequence[Sequence[int]] = (),
    title: str = "",
    budget: int | None = None,
) -> TokenPicture:
    """The picture of one record.

    Args:
        token_ids: prompt and reply; what follows the last position of any kind may be left out.
        n_prompt: prompt tokens.
        answer_from: index of the think-end tag; the length of the sequence where the thought never closed.
        importance: a score per token of the whole sequence, predicted or true; None shades nothing.
        kept: `Completion.kept_positions` of a run with `keep_positions=True`.
        budget: of the method that decoded it.
    """
    n = len(token_ids)
    roles = [QUESTION if i < n_prompt else THOUGHT if i < answer_from else ANSWER for i in range(n)]
    scores = [None] * n if importance is None else [float(s) for s in importance]
    return TokenPicture([tokenizer.decode([i]) for i in token_ids], roles, scores, kept or (), title, budget=budget)


def draw_tokens(picture: TokenPicture, *, columns: int = 100, max_lines: int = 60) -> Axes:
    """Draw the picture with matplotlib and return the Axes.

    Args:
        columns: characters per line; longer lines wrap between tokens.
        max_lines: lines drawn; the rest is named in the last one.
    """
    lines = _wrapped(picture.tokens, columns)
    n_shown, n_left = min(len(lines), max_lines), max(0, len(lines) - max_lines)
    _, ax = plt.subplots(figsize=(0.083 * columns, 0.19 * (n_shown + 4)), layout="constrained")
    ax.set(xlim=(0, columns), ylim=(n_shown + (1.2 if n_left else 0.2), -2.2))
    ax.axis("off")
    font = {"family": "monospace", "size": 9, "va": "center", "ha": "left", "parse_math": False}
    lost, colours = picture.lost_at, list(picture.colours())
    for row, line in enumerate(lines[:max_lines]):
        for position, column, text in line:
            (fill, colour), is_lost = colours[position], lost[position] is not None
            ax.add_patch(plt.Rectangle((column, row - 0.42), len(text), 0.84, color=fill, linewidth=0, zorder=1))
            ax.text(column, row, text, color=colour, zorder=3, **font)
            if is_lost:
                ax.plot([column, column + len(text)], [row, row], color=FADED_TEXT, linewidth=0.9, zorder=4)
    if n_left:
        ax.text(0, n_shown + 0.4, f"... {n_left} more lines", color="0.4", zorder=3, **font)
    _draw_legend(ax, picture)
    return ax


def _draw_legend(ax: Axes, picture: TokenPicture) -> None:
    ax.text(0, -1.75, picture.title, size=9, weight="bold", va="center", parse_math=False)
    small, after_shades = {"size": 7.5, "va": "center"}, 34.5 + 2 * len(SHADES)
    for x, (role, colour) in zip((0, 12), ROLE_COLOURS.items(), strict=True):
        ax.add_patch(plt.Rectangle((x, -1.15), 2, 0.6, color=colour, linewidth=0))
        ax.text(x + 2.5, -0.85, role, **small)
    ax.text(24, -0.85, "thought: least", **small)
    for step, colour in enumerate(SHADES):
        ax.add_patch(plt.Rectangle((34.5 + 2 * step, -1.15), 2, 0.6, color=colour, linewidth=0))
    ax.text(after_shades + 0.7, -0.85, "most important", **small)
    if picture.kept:
        ax.plot([after_shades + 17, after_shades + 22], [-0.85, -0.85], color="0.2", linewidth=0.9)
        ax.text(after_shades + 22.7, -0.85, "evicted", **small)


def _wrapped(tokens: Sequence[str], columns: int) -> list[list[tuple[int, int, str]]]:
    """Lines of (position, column, text); a line break in a token ends its line."""
    lines: list[list[tuple[int, int, str]]] = [[]]
    column = 0
    for position, token in enumerate(tokens):
        text = _visible(token)[:columns]
        if column and column + len(text) > columns:
            lines.append([])
            column = 0
        lines[-1].append((position, column, text))
        column += len(text)
        if "\n" in token:
            lines.append([])
            column = 0
    return lines if lines[-1] else lines[:-1]


def _visible(token: str) -> str:
    """A token as one visible line: breaks and what has no glyph get a sign of their own."""
    text = token.replace("\n", "↵").replace("\t", "→")
    return "".join(c if c.isprintable() else "·" for c in text) or "·"
