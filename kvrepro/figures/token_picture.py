"""A trace as text, each token shaded by its importance, with a mark where an eviction took it away.

Model text is untrusted: the HTML form escapes it, the matplotlib form draws it without mathtext.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ..errors import KvreproError

QUESTION, THOUGHT, ANSWER = "question", "thought", "answer"
# shades from pale to strong; the number of steps is what an eye can tell apart
SHADES = ("#fff7ec", "#fee8c8", "#fdd49e", "#fdbb84", "#fc8d59", "#ef6548", "#d7301f")
TEXT_COLOURS = ("#222", "#222", "#222", "#222", "#222", "#fff", "#fff")
QUESTION_COLOUR, ANSWER_COLOUR = "#dbe9f6", "#e2f0d9"


@dataclass(frozen=True)
class TokenPicture:
    """Everything a drawing needs.

    Attributes:
        tokens: text of each token, in order.
        roles: `question`, `thought` or `answer` (the think-end tag is the answer's).
        importance: a score per token, None where none was made; only thinking tokens are shaded.
        kept: per eviction the positions it kept, ascending; empty for a full cache.
        title: what stands above.
    """

    tokens: Sequence[str]
    roles: Sequence[str]
    importance: Sequence[float | None]
    kept: Sequence[Sequence[int]] = ()
    title: str = ""

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
            stayed = set(kept)
            # the window is always kept, so the last kept position is the newest token at that eviction
            for position in range(max(kept) + 1):
                if position not in stayed and lost[position] is None:
                    lost[position] = number
        return lost

    @property
    def shades(self) -> list[int | None]:
        """Per thinking token its step in `SHADES`, by rank within the thought; None for the others."""
        scores = sorted(
            s for s, role in zip(self.importance, self.roles, strict=True) if role == THOUGHT and s is not None
        )
        return [
            None if score is None or role != THOUGHT
            else min(len(SHADES) - 1, (bisect_right(scores, score) - 1) * len(SHADES) // max(1, len(scores) - 1))
            for score, role in zip(self.importance, self.roles, strict=True)
        ]  # fmt: skip

    def html(self) -> str:
        """A block of HTML with its own styles: no script, no outside file, every token escaped."""
        lost, shades = self.lost_at, self.shades
        spans = []
        for position, token in enumerate(self.tokens):
            style, text_colour = _background(self.roles[position], shades[position])
            score = self.importance[position]
            hint = f"position {position}, {self.roles[position]}"
            hint += "" if score is None else f", importance {score:.4g}"
            hint += "" if lost[position] is None else f", lost at eviction {lost[position]}"
            inner, mark = _shown(token), ""
            if lost[position] is not None:
                inner, mark = f"<s>{inner}</s>", f"<sub>{lost[position]}</sub>"
            opacity = ";opacity:.55" if lost[position] is not None else ""
            spans.append(
                f'<span title="{escape(hint, quote=True)}" style="background:{style};color:{text_colour}{opacity}">'
                f"{inner}{mark}</span>" + ("<br>" if "\n" in token else "")
            )
        return (
            f'<div style="font:13px/1.9 ui-monospace,monospace;max-width:70rem;color:#222;background:#fff;'
            f'padding:.6rem;overflow-wrap:anywhere;white-space:pre-wrap"><div style="font:600 14px system-ui">'
            f"{escape(self.title)}</div>{self._legend()}{''.join(spans)}</div>"
        )

    def _legend(self) -> str:
        steps = "".join(f'<span style="background:{c};padding:0 .5em">&nbsp;</span>' for c in SHADES)
        parts = [
            f'<span style="background:{QUESTION_COLOUR}">question</span>', f"thought, least {steps} most important",
            f'<span style="background:{ANSWER_COLOUR}">answer</span>',
        ]  # fmt: skip
        if self.kept:
            parts.append("<s>struck</s><sub>n</sub>: lost at eviction n")
        return f'<div style="font:12px system-ui;margin:.2rem 0 .5rem">{" &ensp; ".join(parts)}</div>'


def picture_of(
    tokenizer, token_ids: Sequence[int], n_prompt: int, answer_from: int, importance: Sequence[float] | None = None,
    kept: Sequence[Sequence[int]] = (), title: str = "",
) -> TokenPicture:  # fmt: skip
    """The picture of one record.

    Args:
        token_ids: prompt and reply; what follows the last position of any kind may be left out.
        n_prompt: prompt tokens.
        answer_from: index of the think-end tag; the length of the sequence where the thought never closed.
        importance: a score per token of the whole sequence, predicted or true; None shades nothing.
        kept: `Completion.kept_positions` of a run with `keep_positions=True`.
    """
    roles = [
        QUESTION if i < n_prompt else THOUGHT if i < answer_from else ANSWER for i in range(len(token_ids))
    ]  # fmt: skip
    scores = [None] * len(token_ids) if importance is None else [float(s) for s in importance]
    return TokenPicture([tokenizer.decode([i]) for i in token_ids], roles, scores, kept or (), title)


def draw_tokens(picture: TokenPicture, *, columns: int = 100, max_lines: int = 60, ax=None):
    """Draw the picture with matplotlib and return the Axes.

    Args:
        columns: characters per line; longer lines wrap between tokens.
        max_lines: lines drawn; the rest is named in the last one.
    """
    import matplotlib.pyplot as plt

    lines = _wrapped(picture.tokens, columns)
    shown = lines[:max_lines]
    if ax is None:
        height = 0.19 * (len(shown) + 4)
        _, ax = plt.subplots(figsize=(0.083 * columns, height), layout="constrained")
    lost, shades = picture.lost_at, picture.shades
    ax.set(xlim=(0, columns), ylim=(len(shown) + (1.2 if len(lines) > max_lines else 0.2), -2.2))
    ax.axis("off")
    font = dict(family="monospace", size=9, va="center", ha="left", parse_math=False)
    for row, line in enumerate(shown):
        for position, column, text in line:
            fill, text_colour = _background(picture.roles[position], shades[position])
            gone = lost[position] is not None
            # what was evicted fades, so that what stayed stands out
            ax.add_patch(
                plt.Rectangle(
                    (column, row - 0.42), len(text), 0.84, color=fill, alpha=0.35 if gone else 1, linewidth=0, zorder=1
                )
            )
            ax.text(column, row, text, color="0.45" if gone else text_colour, zorder=3, **font)
            if gone:
                ax.plot([column, column + len(text)], [row, row], color="0.2", linewidth=0.9, zorder=4)
    if len(lines) > max_lines:
        ax.text(0, len(shown) + 0.4, f"... {len(lines) - max_lines} more lines", color="0.4", zorder=3, **font)
    _draw_legend(ax, picture, columns)
    return ax


def _draw_legend(ax, picture: TokenPicture, columns: int) -> None:
    import matplotlib.pyplot as plt

    ax.text(0, -1.75, picture.title, size=9, weight="bold", va="center", parse_math=False)
    x = 0.0
    entries = [("question", QUESTION_COLOUR), ("answer", ANSWER_COLOUR)]
    for name, colour in entries:
        ax.add_patch(plt.Rectangle((x, -1.15), 2, 0.6, color=colour, linewidth=0))
        ax.text(x + 2.5, -0.85, name, size=7.5, va="center")
        x += 12
    ax.text(x, -0.85, "thought: least", size=7.5, va="center")
    x += 10.5
    for step, colour in enumerate(SHADES):
        ax.add_patch(plt.Rectangle((x + 2 * step, -1.15), 2, 0.6, color=colour, linewidth=0))
    ax.text(x + 2 * len(SHADES) + 0.7, -0.85, "most important", size=7.5, va="center")
    if picture.kept:
        x += 2 * len(SHADES) + 17
        ax.plot([x, x + 5], [-0.85, -0.85], color="0.2", linewidth=0.9)
        ax.text(x + 5.7, -0.85, "evicted", size=7.5, va="center")


def _wrapped(tokens: Sequence[str], columns: int) -> list[list[tuple[int, int, str]]]:
    """Lines of (position, column, text); a line break in a token ends its line."""
    lines: list[list[tuple[int, int, str]]] = [[]]
    column = 0
    for position, token in enumerate(tokens):
        text = _shown_plain(token)[:columns]
        if column and column + len(text) > columns:
            lines.append([])
            column = 0
        lines[-1].append((position, column, text))
        column += len(text)
        if "\n" in token:
            lines.append([])
            column = 0
    return lines if lines[-1] else lines[:-1]


def _background(role: str, shade: int | None) -> tuple[str, str]:
    if role == QUESTION:
        return QUESTION_COLOUR, "#222"
    if role == ANSWER:
        return ANSWER_COLOUR, "#222"
    return ("#fff", "#222") if shade is None else (SHADES[shade], TEXT_COLOURS[shade])


def _shown_plain(token: str) -> str:
    """A token as one visible line: breaks and what has no glyph get a sign of their own."""
    text = token.replace("\n", "↵").replace("\t", "→")
    return "".join(c if c.isprintable() else "·" for c in text) or "·"


def _shown(token: str) -> str:
    return escape(_shown_plain(token), quote=True)
