"""One spelling for what models write in many: Unicode, spacing commands, wrappers, thousands separators."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_SUPERSCRIPT = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ⁽⁾", "0123456789+-n()", strict=True))
_SUBSCRIPT = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-", strict=True))
_RAISED, _LOWERED = (re.compile(f"[{''.join(signs)}]+") for signs in (_SUPERSCRIPT, _SUBSCRIPT))


def _table(text: str) -> dict[str, str]:
    words = text.split()
    return dict(zip(words[::2], words[1::2], strict=True))


# signs and the command or the ASCII that each stands for
_SIGNS = _table(r"""
− - – - — - ‐ - ‑ - × \times ✕ \times ÷ \div · \cdot ⋅ \cdot ∙ \cdot √ \sqrt ∞ \infty ≤ \le ≥ \ge ⩽ \le ⩾ \ge ≠ \ne ∪
\cup ∩ \cap ∈ \in ° ^\circ º ^\circ ≈ \approx ± \pm ∓ \mp → \to ⇒ \Rightarrow ∅ \emptyset ℝ \mathbb{R} ℤ \mathbb{Z} ∖
\setminus ⟨ \langle ⟩ \rangle ≡ \equiv ∠ \angle ′ ' ’ ' ‘ ' “ " ” " ⁄ / ∕ / 。 ._ 、 ,_
""")
_GREEK = _table("""
α alpha β beta γ gamma δ delta ε epsilon θ theta λ lambda μ mu ρ rho σ sigma τ tau φ phi ϕ phi ω omega π pi Δ Delta Ω
Omega Σ Sigma
""")
# one name for the commands that mean the same
_RENAMED = _table("""
dfrac frac tfrac frac cfrac frac dbinom binom tbinom binom leq le leqslant le geq ge geqslant ge neq ne lt < gt >
lbrace { rbrace } lbrack [ rbrack ] varnothing emptyset degree circ implies Rightarrow Longrightarrow Rightarrow iff
Rightarrow rightarrow to simeq approx lvert | rvert | vert | lVert | rVert | backslash setminus wedge land vee lor ast
cdot infin infty colon : lparen ( rparen ) bmod pmod mod pmod varphi phi varepsilon epsilon tg tan ctg cot dots ldots
cdots ldots
""")
_INVISIBLE = re.compile("[\u0000-\u0008\u000e-\u001f\u007f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_DROPPED = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|boldmath|bf|rm|it|tt|sf|large"
    r"|Large|LARGE|huge|Huge|small|normalsize|centering|relax|mleft|mright|middle|nonumber|notag|protect)(?![A-Za-z])"
    r"|\\(?:color|textcolor|colorbox|bbox)\s*(?:\{[A-Za-z0-9#!]*\}|\[[^\]]*\])"
)
_TEXT_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|textup|textsc|mbox|hbox|mathrm|mathsf|mathtt|emph"
    r"|operatorname)\*?\s*\{"
)
_FONT_WRAPPER = re.compile(
    r"\\(?:mathbf|mathit|boldsymbol|bm|pmb|mathcal|underline|uline|ensuremath|boxed|fbox|framebox|mathstrut|bbox"
    r"|underbrace|mathclose|mathopen|mathord|cancel|vec|hat|mathnormal|overrightarrow)\s*\{"
)
_SYSTEM = re.compile(
    r"(?s)\\(?:left\s*\\\{\s*\\)?begin\s*\{(cases|aligned|align\*?|gathered|split)\}(.*?)\\end\s*\{\1\}"
)
_SPACES = re.compile(
    r"\\[;: ]|\\q?quad(?![A-Za-z])|~|\\hspace\*?\{[^{}]*\}|\\(?:thinspace|enspace|nobreakspace)(?![A-Za-z])|\\hfill|\\$"
)
_GROUPED = re.compile(r"(?<![\d.,}])([1-9]\d{0,2}(?: \d{3})+)(?![\d/]|\s*\\frac)")


def unify_unicode(text: str) -> str:
    """Typographic characters as the LaTeX or ASCII that they stand for; control and zero-width characters go."""
    text = _INVISIBLE.sub("", text)
    if text.isascii():
        return text
    text = _RAISED.sub(lambda m: "^{" + "".join(_SUPERSCRIPT[c] for c in m[0]) + "}", text)
    text = _LOWERED.sub(lambda m: "_{" + "".join(_SUBSCRIPT[c] for c in m[0]) + "}", text)
    text = re.sub("[¼-¾⅐-⅞]", _fraction, text)
    text = re.sub(r"√\s*(\d+)", r"\\sqrt{\1}", text)
    for character, spelled in _SIGNS.items():
        text = text.replace(
            character, spelled.replace("_", " ") + (" " if spelled[-1].isalpha() or "{" in spelled else "")
        )
    text = unicodedata.normalize("NFKC", text)
    for character, name in _GREEK.items():
        text = text.replace(character, f"\\{name} ")
    # digits of other scripts (Arabic, Devanagari, ...)
    return "".join(str(unicodedata.digit(c)) if not c.isascii() and c.isdecimal() else c for c in text)


def _fraction(match: re.Match[str]) -> str:
    top, bottom = unicodedata.normalize("NFKC", match[0]).split("⁄")
    return f"\\frac{{{top}}}{{{bottom}}}"


def rewritten(text: str, table: Iterable[tuple[str, str]]) -> str:
    """The text after every substitution (pattern, replacement) of a table, in order."""
    for pattern, instead in table:
        text = re.sub(pattern, instead, text)
    return text


def brace_pairs(text: str) -> dict[int, int]:
    """Opening brace -> closing brace, for the whole text in one pass; `\\{` and `\\}` do not count."""
    pairs: dict[int, int] = {}
    stack: list[int] = []
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if match[0] == "{":
            stack.append(match.start())
        elif match[0] == "}" and stack:
            pairs[stack.pop()] = match.start()
    return pairs


def _unwrap(text: str) -> str:
    """Without fonts and frames around groups."""
    while match := _FONT_WRAPPER.search(text):
        end = brace_pairs(text).get(match.end() - 1, len(text))
        text = f"{text[: match.start()]} {text[match.end() : end]} {text[end + 1 :]}"
    return text


def _unwrap_text(text: str) -> str:
    """All text-like wrappers as `\\text{content}`, innermost content flat."""
    pieces: list[str] = []
    position, pairs = 0, brace_pairs(text)
    while match := _TEXT_WRAPPER.search(text, position):
        end = pairs.get(match.end() - 1, match.end() - 1)
        inner = _TEXT_WRAPPER.sub("{", text[match.end() : end])
        inner = re.sub(r"[{}]", "", inner) if "\\" not in inner else inner
        # words of maths set upright are maths: functions, e, i, d
        is_maths = re.fullmatch(r"\s*(?:[\d.,+\-/ ()]*|e|i|\\[a-z]+.*)\s*", inner)
        pieces += [text[position : match.start()], f" {inner} " if is_maths else "\\text{" + inner + "}"]
        position = end + 1
    return "".join(pieces) + text[position:]


def _join_thousands(text: str) -> str:
    """Remove separators that can only be thousands separators: `1{,}625`, `1,\\!625`, `1\\,625`, `1 625`."""
    text = re.sub(r"(?<=\d)(?:\s*,\s*\\!\s*(?=\d{3})|\{(?:,|\\,)\}(?=\d{3}(?!\d)))", "", text)
    text = re.sub(r"(?<![\d.,(\[])(\d{1,3})\.(\d{3}),(\d{1,2})(?!\d)", r"\1\2.\3", text)
    # two dots or more are no decimal point
    text = re.sub(r"(?<![\d.,])\d{1,3}(?:\.\d{3}){2,}(?![\d.])", lambda m: m[0].replace(".", ""), text)
    text = re.sub(r"(?<=\d)\{[,.]\}(?=\d)", ".", text)
    text = re.sub(r"(?<=\d)(?:\\,|\\!|\\ |~|'(?=\d{3}))+(?=\d)", " ", text)
    text = text.replace("\\!", "").replace("\\,", " ")
    return _GROUPED.sub(lambda m: m[1].replace(" ", ""), text)


def clean(text: str) -> str:
    """Answer text in one spelling: maths delimiters, spacing, sizes and fonts removed; words kept in `\\text{}`."""
    text = re.sub(r"\*\*|__|`+", "", unify_unicode(text))
    if "\\begin" not in text:
        # commands whose backslash was escaped once more than needed
        text = re.sub(r"\\\\(?=[A-Za-z]{2})", r"\\", text)
    text = _SYSTEM.sub(_listed, text.replace("\\\\", "\\cr "))
    if text.count("$") == 1:
        # no delimiter of maths, which come in pairs
        text = re.sub(r"(?<!\\)\$(?=\s*\d)", r"\\$", text)
    text = re.sub(r"\\(?:text|mathrm|operatorname)\s*\{\s*(gcd|lcm|max|min)\s*\}(?=\s*[({])", r"\\\1 ", text)
    text = re.sub(r"\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?", r"\\overline{\1\2\3}", text)
    text = re.sub(r"\\[()\[\]]|(?<!\\)\$", " ", text)
    text = _SPACES.sub(" ", _join_thousands(_DROPPED.sub(" ", text)))
    text = re.sub(r"\\([A-Za-z]+)\*?", _rename, _unwrap_text(_unwrap(text)))
    text = re.sub(r"\^\s*\{?\s*(?:\\text\{\s*o\s*\}|o(?![A-Za-z]))\s*\}?", r"^\\circ ", text)
    text = re.sub(r"\\frac\s*\{\s*\\text\{([^{}]*)\}\s*\}\s*\{\s*\\text\{([^{}]*)\}\s*\}", r"\\text{\1/\2}", text)
    text = re.sub(r"\\(?:blacksquare|square|Box|qed|checkmark)(?![A-Za-z])\s*$", "", text)
    text = re.sub(r"\s+", " ", re.sub(r"(?<=\d)\s*\.\.\.+", r"\\ldots ", text)).strip()
    while text and text[-1] in ".;,!?" and not re.search(r"[\w})\]\\]!$", text):
        text = text[:-1].rstrip()
    return strip_group(text)


def _listed(match: re.Match[str]) -> str:
    """A system of equations as the list it is; pieces of a function, which have conditions, stay as they are."""
    rows = [row.strip().rstrip(",") for row in match[2].split("\\cr ") if row.strip()]
    if any("=" not in row for row in rows) or (match[1] == "cases" and "&" in match[2]):
        return match[0]
    return " , ".join(row.replace("&", "") for row in rows)


def _rename(match: re.Match[str]) -> str:
    name = _RENAMED.get(match[1], match[1])
    if not name.isalpha():
        return "\\" + name if name in "{}" else name
    return "\\" + name + (" " if name != match[1] else "")


def strip_group(text: str) -> str:
    """Without braces that enclose everything."""
    while text.startswith("{") and brace_pairs(text).get(0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


_BRACKETS = re.compile(r"(?P<open>\\langle|\\begin|\\?\{|[(\[])|(?P<close>\\rangle|\\end|\\?\}|[)\]])|\\[^A-Za-z]")


def split_top(text: str, separators: re.Pattern[str]) -> list[str]:
    """Split where `separators` match outside every bracket and group; ends of half-open intervals count as brackets."""
    parts: list[str] = []
    depth = start = i = 0
    while i < len(text):
        if depth == 0 and (match := separators.match(text, i)) and match.end() > i:
            parts.append(text[start:i])
            start = i = match.end()
            continue
        if bracket := _BRACKETS.match(text, i):
            depth = max(depth + (1 if bracket["open"] else -1 if bracket["close"] else 0), 0)
        i += 2 if bracket and len(bracket[0]) == 2 else 1
    return [part.strip() for part in (*parts, text[start:])]
