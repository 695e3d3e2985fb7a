"""Shapes of answers: bare lists, sets in braces, ordered tuples, matrices."""

from __future__ import annotations

import re

from kvrepro.graders.cleaning import split_top
from kvrepro.graders.compare.equations import sides_of

_SEPARATOR = re.compile(
    r"[,;]|&|\\text\{\s*[,;]?\s*(?:and|or|,|;)\s*\}|\\land(?![A-Za-z])|\\lor(?![A-Za-z])|\\cr(?![A-Za-z])"
    r"|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|[或和与]",
    re.IGNORECASE,
)
_ENVIRONMENT = re.compile(
    r"^(.*?)\\begin\s*\{([pbvBV]?matrix|smallmatrix|array)\}\s*(?:\{[^{}]*\})?(.*)\\end\s*\{\2\}\s*(.*)$", re.DOTALL
)
_POINT_LABEL = re.compile(
    r"^(?:\\text\{\s*(?:point|vertex|center|centre)?\s*[A-Z]?\s*\}|[A-Z]'?|point|\\vec\s*\{?\w\}?)\s*=?\s*(?=\()",
    re.IGNORECASE,
)

_TRANSPOSED = re.compile(r"\s*\^\s*\{?\s*(?:T|t|\\top|\\intercal|\\text\{\s*T\s*\})\s*\}?$")
_DIAGONAL = re.compile(r"^(?:\\text\{\s*diag\s*\}|\\?diag)\s*[(\[](.+)[)\]]$")
# combinations, or a point named C
_SELECTION = re.compile(r"^[CP]\s*\(\s*\d+\s*,\s*\d+\s*\)$")


def distinct(parts: list[str]) -> list[str]:
    """Parts without repeated spellings."""
    kept: list[str] = []
    for part in parts:
        if not any(squeeze(part) == squeeze(other) for other in kept):
            kept.append(part)
    return kept


def expand(part: str) -> list[str]:
    """`\\pm` as its two values."""
    if re.search(r"\\(?:pm|mp)(?![A-Za-z])", part) is None:
        return [part]
    upper = re.sub(r"\\mp(?![A-Za-z])", "-", re.sub(r"\\pm(?![A-Za-z])", "+", part))
    lower = re.sub(r"\\mp(?![A-Za-z])", "+", re.sub(r"\\pm(?![A-Za-z])", "-", part))
    return [re.sub(r"^\s*\+", "", upper), lower]


def elements(text: str) -> list[str]:
    """Parts of a bare list (`1, 2 and 3`, `x = \\pm 2`), without repeated ones; one part if it is no list."""
    if is_grouped_number(text):
        return [text]
    parts = [part for part in split_top(text, _SEPARATOR) if part]
    return distinct([value for part in parts for value in expand(part)])


def is_grouped_number(text: str) -> bool:
    """One number with thousands separators, not a list."""
    # groups of three, or of two before the last three as in India
    digits = r"[1-9](?:\d{0,2}(?:,\d{3})+|\d?(?:,\d{2})+,\d{3})"
    unit = r"[^\d,]*(?:[A-Za-z}]\s*\^\s*\{?\s*-?\d\s*\}?[^\d,]*)*"
    return bool(re.match(rf"^[^\d,]*{digits}(?:\.\d+)?{unit}$", text)) and not re.search(r"[(\[]|\\\{", text)


def braced(text: str) -> list[str] | None:
    """Elements of `\\{...\\}`; None for anything else, set-builder notation included."""
    if text.startswith("\\{") and text.endswith("\\}") and len(split_top(text, re.compile(r"(?<=\\\})"))) <= 2:
        inner = text[2:-2]
        if re.search(r"\||:|\\mid", inner):
            return None
        return distinct([value for part in split_top(inner, re.compile("[,;]")) if part for value in expand(part)])
    return None


def ordered(text: str) -> list[str] | None:
    """Components of `(a, b)`, `<a, b>` or a column."""
    text = _TRANSPOSED.sub("", _POINT_LABEL.sub("", text)) if not text.startswith("\\begin") else text
    for opening, closing in (("(", ")"), ("\\langle", "\\rangle"), ("[", "]")):
        if text.startswith(opening) and text.endswith(closing):
            inner = text[len(opening) : -len(closing)]
            if len(split_top(opening + inner + closing + "#", re.compile("#"))) == 2:
                parts = split_top(inner, re.compile("[,;]"))
                if len(parts) > 1 and _balanced(inner):
                    return parts
    matrix = rows_of(text)
    if matrix is not None and len(matrix[1]) > 1 and all(len(row) == 1 for row in matrix[1]) and not matrix[0]:
        return [row[0] for row in matrix[1]]
    return None


def is_selection(text: str) -> bool:
    """`C(10,3)` and `P(6,3)`, which count selections unless the other side is a point."""
    return bool(_SELECTION.match(text))


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if depth < 0:
            return False
    return depth == 0


def rows_of(text: str) -> tuple[str, list[list[str]]] | None:
    """(scalar factor, rows) of a matrix."""
    if diagonal := _DIAGONAL.match(text):
        entries = split_top(diagonal[1], re.compile(","))
        return "", [[entry if i == j else "0" for j in range(len(entries))] for i, entry in enumerate(entries)]
    if text.startswith("[[") and text.endswith("]]"):
        lists = split_top(text[1:-1], re.compile(","))
        if all(row.startswith("[") and row.endswith("]") for row in lists):
            return "", [split_top(row[1:-1], re.compile(",")) for row in lists]
    transposed = _TRANSPOSED.search(text)
    is_transposed = transposed is not None
    match = _ENVIRONMENT.match(text[: transposed.start()] if transposed else text)
    if match is None or match[4].strip(" )]"):
        return None
    factor = match[1].strip(" ([").removesuffix("\\cdot").strip()
    rows = [row for row in re.split(r"\\cr(?![A-Za-z])(?:\s*\[[^\]]*\])?", match[3]) if row.strip()]
    cells = [[cell.strip() for cell in row.split("&")] for row in rows]
    if is_transposed and len({len(row) for row in cells}) == 1:
        cells = [list(column) for column in zip(*cells, strict=True)]
    return factor, cells


def bare(part: str) -> str:
    """Without a leading `x =`."""
    sides = sides_of(part)
    return sides[-1] if len(sides) == 2 and re.fullmatch(r"[A-Za-z](?:_\{?\w+\}?)?", sides[0].strip()) else part


def values_of(text: str) -> list[str]:
    """Elements of a list without the variable that each or the first may repeat."""
    return distinct([bare(part) for part in elements(text)])


def assignments(parts: list[str]) -> dict[str, str] | None:
    """`x = 2`, `y = 3` as a mapping; None if a part is no assignment to a letter or a letter repeats."""
    named: dict[str, str] = {}
    for part in parts:
        sides = sides_of(part)
        name = sides[0].strip()
        if len(sides) != 2 or not re.fullmatch(r"[A-Za-z](?:_\{?\w+\}?)?", name) or name in named:
            return None
        named[name] = sides[1]
    return named


def summed_up(parts: list[str]) -> str | None:
    """Value of the last part of `p = 112, q = 1, p + q = 113`, which the parts before lead to; else None."""
    named = assignments(parts[:-1])
    last = sides_of(parts[-1])
    if not named or len(last) < 2 or len(last[0].strip()) < 2:
        return None
    return last[-1] if all(name in last[0] for name in named) else None


def assigned(parts: list[str]) -> list[str]:
    """`y = 4, x = 2` as the point (2, 4): assignments in alphabetical order."""
    names = [sides_of(part)[0].strip() for part in parts]
    if all(re.fullmatch("[a-z]", name) for name in names) and len(set(names)) == len(names):
        parts = [part for _, part in sorted(zip(names, parts, strict=True))]
    return [bare(part) for part in parts]


def squeeze(text: str) -> str:
    """Without white space, except between digits."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)
