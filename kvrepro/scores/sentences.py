"""What a paired comparison came to, in a sentence: who leads, by how much, and whether the problems can tell."""

from __future__ import annotations

from .statistics import PairedDifference

SIGNIFICANCE = 0.05
# with fewer problems a t interval rests on too few differences to be read
FEW_PROBLEMS = 8
# where fewer problems differ, all their signs alike are no rarer than 0.5^(5 - 1), whatever a t test finds
FEW_DIFFERING = 6


def difference_sentence(name: str, other: str, found: PairedDifference, p_value: float | None = None) -> str:
    """One sentence on `name` minus `other`, in points of Pass@1.

    Args:
        found: of the two, `name` first, from values in [0, 1].
        p_value: adjusted for other comparisons; None takes the comparison's own.
    """
    p_value = found.p_value if p_value is None else p_value
    points, lo, hi = found.points
    room = f"[{lo:+.1f}, {hi:+.1f}]"
    basis = f"p {p_text(p_value)}, {found.n_problems} problems"
    if found.n_problems < FEW_PROBLEMS:
        return f"{name} minus {other}: {points:+.1f} points {room}; {found.n_problems} problems say nothing."
    if p_value < SIGNIFICANCE and found.n_differing < FEW_DIFFERING:
        differ = f"only {found.n_differing} of {found.n_problems} problems differ, too few to tell"
        return f"{name} and {other} cannot be told apart: {points:+.1f} points {room}, {differ}."
    if p_value >= SIGNIFICANCE:
        return f"{name} and {other} cannot be told apart: {points:+.1f} points {room}, {basis}."
    return f"{name} {'beats' if points > 0 else 'loses to'} {other}: {points:+.1f} points {room}, {basis}."


def p_text(p_value: float) -> str:
    """`= 0.03`, or `< 0.001` below that."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3g}"
