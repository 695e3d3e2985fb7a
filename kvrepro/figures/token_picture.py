"""A trace as text, each token shaded by its importance, with a mark where an eviction took it away.

Model text is untrusted: the HTML form escapes it, the matplotlib form draws it without mathtext.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from ..errors import KvreproError

QUESTION, THOUGHT, ANSWER = "question", "thought", "answer"
# shades from pale to strong; the number of steps is what an eye can tell apart
SHADES = ("#fff7ec", "#fee8c8", "#fdd49e", "#fdbb84", "#fc8d59", "#ef6548", "#d7301f")
_ROLE_COLOURS = {QUESTION: "#dbe9f6", ANSWER: "#e2f0d9"}


@dataclass(frozen=True)
class TokenPicture:
    """Everything a drawing needs.

    Attributes:
        tokens: text of each token, in order.
        roles: `question`, `thought` or `answer` (the think-end tag is the answer's).
        importance: a score per token, None where none was made; only thinking tokens are shaded.
        kept: per eviction the positions it kept, ascending; empty for a full cache.
        title: what stands above. caption: what is said below, where the picture stands on a page.
    """

    tokens: Sequence[str]
    roles: Sequence[str]
    importance: Sequence[float | None]
    kept: Sequence[Sequence[int]] = ()
    title: str = ""
    caption: str = ""

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
        for number, kept in enumerate(self.kept, start=1):
            # the window is always kept, so the last kept position is the newest token at that eviction
            for position in set(range(max(kept) + 1)) - set(kept):
                lost[position] = lost[position] or number
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
        """Per token the colour behind it and its own."""
        for role, shade in zip(self.roles, self.shades, strict=True):
            fill = _ROLE_COLOURS.get(role, "#fff") if shade is None else SHADES[shade]
            yield fill, "#222" if shade is None or shade < len(SHADES) - 2 else "#fff"

    def html(self) -> str:
        """A block of HTML with its own styles: no script, no outside file, every token escaped."""
        spans = []
        drawn = zip(self.tokens, self.roles, self.importance, self.lost_at, self.colours(), strict=True)
        for position, (token, role, score, lost, (fill, colour)) in enumerate(drawn):
            hint = f"position {position}, {role}" + ("" if score is None else f", importance {score:.4g}")
            inner, opacity = escape(_visible(token), quote=True), ""
            if lost is not None:
                hint += f", lost at eviction {lost}"
                inner, opacity = f"<s>{inner}</s><sub>{lost}</sub>", ";opacity:.55"
            style = f"background:{fill};color:{colour}{opacity}"
            spans.append(f'<span title="{escape(hint, quote=True)}" style="{style}">{inner}</span>')
            spans.append("<br>" if "\n" in token else "")
        return (
            f'<div style="font:13px/1.9 ui-monospace,monospace;max-width:70rem;color:#222;background:#fff;'
            f'padding:.6rem;overflow-wrap:anywhere;white-space:pre-wrap"><div style="font:600 14px system-ui">'
            f"{escape(self.title)}</div>{self._legend()}{''.join(spans)}</div>"
        )

    def _legend(self) -> str:
        steps = "".join(f'<span style="background:{c};padding:0 .5em">&nbsp;</span>' for c in SHADES)
        question, answer = (f'<span style="background:{c}">{role}</span>' for role, c in _ROLE_COLOURS.items())
        parts = [question, f"thought, least {steps} most important", answer]
        parts += ["<s>struck</s><sub>n</sub>: lost at eviction n"] if self.kept else []
        return f'<div style="font:12px system-ui;margin:.2rem 0 .5rem">{" &ensp; ".join(parts)}</div>'


def picture_of(
    tokenizer,
    token_ids: Sequence[int],
    n_prompt: int,
    answer_from: int,
    importance: Sequence[float] | None = None,
    kept: Sequence[Sequence[int]] = (),
    title: str = "",
) -> TokenPicture:
    """The picture of one record.

    Args:
        token_ids: prompt and reply; what follows the last position of any kind may be left out.
        n_prompt: prompt tokens.
        answer_from: index of the think-end tag; the length of the sequence where the thought never closed.
        importance: a score per token of the whole sequence, predicted or true; None shades nothing.
        kept: `Completion.kept_positions` of a run with `keep_positions=True`.
    """
    n = len(token_ids)
    roles = [QUESTION if i < n_prompt else THOUGHT if i < answer_from else ANSWER for i in range(n)]
    scores = [None] * n if importance is None else [float(s) for s in importance]
    return TokenPicture([tokenizer.decode([i]) for i in token_ids], roles, scores, kept or (), title)


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
            # what was evicted fades, so that what stayed stands out
            box = {"color": fill, "alpha": 0.35 if is_lost else 1, "linewidth": 0, "zorder": 1}
            ax.add_patch(plt.Rectangle((column, row - 0.42), len(text), 0.84, **box))
            ax.text(column, row, text, color="0.45" if is_lost else colour, zorder=3, **font)
            if is_lost:
                ax.plot([column, column + len(text)], [row, row], color="0.2", linewidth=0.9, zorder=4)
    if n_left:
        ax.text(0, n_shown + 0.4, f"... {n_left} more lines", color="0.4", zorder=3, **font)
    _draw_legend(ax, picture)
    return ax


def _draw_legend(ax: Axes, picture: TokenPicture) -> None:
    ax.text(0, -1.75, picture.title, size=9, weight="bold", va="center", parse_math=False)
    small, after_shades = {"size": 7.5, "va": "center"}, 34.5 + 2 * len(SHADES)
    for x, (role, colour) in zip((0, 12), _ROLE_COLOURS.items(), strict=True):
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
