"""One spelling for what models write in many: Unicode, spacing commands, wrappers, thousands separators."""

from __future__ import annotations

import re
import unicodedata

_SUPERSCRIPT = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ⁽⁾", "0123456789+-n()", strict=True))
_SUBSCRIPT = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-", strict=True))
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "θ": "theta", "λ": "lambda", "μ": "mu",
    "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi", "ϕ": "phi", "ω": "omega", "π": "pi", "Δ": "Delta", "Ω": "Omega",
    "Σ": "Sigma",
}  # fmt: skip
_SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "✕": r"\times ", "÷": r"\div ", "·": r"\cdot ",
    "⋅": r"\cdot ", "∙": r"\cdot ", "√": r"\sqrt ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ",
    "⩾": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "°": r"^\circ ", "º": r"^\circ ",
    "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ", "→": r"\to ", "⇒": r"\Rightarrow ", "∅": r"\emptyset ",
    "ℝ": r"\mathbb{R} ", "ℤ": r"\mathbb{Z} ", "∖": r"\setminus ", "⟨": r"\langle ", "⟩": r"\rangle ", "≡": r"\equiv ",
    "∠": r"\angle ", "′": "'", "’": "'", "‘": "'", "“": '"', "”": '"', "⁄": "/", "∕": "/", "。": ". ", "、": ", ",
}  # fmt: skip
_INVISIBLE = re.compile("[\u0000-\u0008\u000e-\u001f\u007f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPT)}]+")
_LOWERED = re.compile(f"[{''.join(_SUBSCRIPT)}]+")
_VULGAR = re.compile("[¼-¾⅐-⅞]")

_RENAMED = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom", "leq": "le",
    "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne", "lt": "<", "gt": ">", "lbrace": "{", "rbrace": "}",
    "lbrack": "[", "rbrack": "]", "varnothing": "emptyset", "degree": "circ", "implies": "Rightarrow",
    "Longrightarrow": "Rightarrow", "iff": "Rightarrow", "rightarrow": "to", "simeq": "approx", "lvert": "|",
    "rvert": "|", "vert": "|", "lVert": "|", "rVert": "|", "backslash": "setminus",
    "wedge": "land", "vee": "lor", "ast": "cdot", "infin": "infty", "colon": ":",
    "lparen": "(", "rparen": ")", "bmod": "pmod", "mod": "pmod", "varphi": "phi", "varepsilon": "epsilon",
    "tg": "tan", "ctg": "cot", "dots": "ldots", "cdots": "ldots",
}  # fmt: skip
_DROPPED = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|boldmath|bf|rm|it|tt|sf"
    r"|large|Large|LARGE|huge|Huge|small|normalsize|centering|relax|mleft|mright|middle|nonumber|notag|protect)"
    r"(?![A-Za-z])"
)
_COMMAND = re.compile(r"\\([A-Za-z]+)\*?")
_TEXT_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|textup|textsc|mbox|hbox|mathrm|mathsf|mathtt"
    r"|emph|operatorname)"
    r"\*?\s*\{"
)
_FONT_WRAPPER = re.compile(
    r"\\(?:mathbf|mathit|boldsymbol|bm|pmb|mathcal|underline|uline|ensuremath|boxed|fbox|framebox|mathstrut|bbox"
    r"|underbrace|mathclose|mathopen|mathord|cancel|vec|hat|mathnormal|overrightarrow)\s*\{"
)
_COLOUR = re.compile(r"\\(?:color|textcolor|colorbox|bbox)\s*(?:\{[A-Za-z0-9#!]*\}|\[[^\]]*\])")
_SYSTEM = re.compile(
    r"\\(?:left\s*\\\{\s*\\)?begin\s*\{(cases|aligned|align\*?|gathered|split)\}(.*?)\\end\s*\{\1\}", re.DOTALL
)
_SPACES = re.compile(
    r"\\[;: ]|\\q?quad(?![A-Za-z])|~|\\hspace\*?\{[^{}]*\}|\\(?:thinspace|enspace|nobreakspace)(?![A-Za-z])|\\hfill"
)
_MARKDOWN = re.compile(r"\*\*|__|`+")


def unify_unicode(text: str) -> str:
    """Typographic characters as the LaTeX or ASCII that they stand for; control and zero-width characters go."""
    text = _INVISIBLE.sub("", text)
    if text.isascii():
        return text
    text = _RAISED.sub(lambda m: "^{" + "".join(_SUPERSCRIPT[c] for c in m[0]) + "}", text)
    text = _LOWERED.sub(lambda m: "_{" + "".join(_SUBSCRIPT[c] for c in m[0]) + "}", text)
    text = _VULGAR.sub(_fraction, text)
    text = re.sub(r"√\s*(\d+)", r"\\sqrt{\1}", text)
    for character, spelled in _SYMBOLS.items():
        text = text.replace(character, spelled)
    text = unicodedata.normalize("NFKC", text)
    for character, name in _GREEK.items():
        text = text.replace(character, f"\\{name} ")
    # digits of other scripts (Arabic, Devanagari, ...)
    return "".join(str(unicodedata.digit(c)) if not c.isascii() and c.isdecimal() else c for c in text)


def _fraction(match: re.Match[str]) -> str:
    top, bottom = unicodedata.normalize("NFKC", match[0]).split("⁄")
    return f"\\frac{{{top}}}{{{bottom}}}"


def closing_brace(text: str, start: int) -> int:
    """Index of the brace that closes the one at `start`; -1 where it is never closed. `\\{` and `\\}` do not count."""
    depth = 0
    i = start
    while i < len(text):
        character = text[i]
        if character == "\\":
            i += 2
            continue
        if character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return i
        i += 1
    return -1


def unwrap(text: str, pattern: re.Pattern[str]) -> str:
    """Replace every group that `pattern` opens (it ends at the opening brace) by its content."""
    while match := pattern.search(text):
        end = closing_brace(text, match.end() - 1)
        inner, rest = (text[match.end() : end], text[end + 1 :]) if end >= 0 else ("", text[match.end() :])
        text = f"{text[: match.start()]} {inner} {rest}" if inner.isalnum() else text[: match.start()] + inner + rest
    return text


def join_thousands(text: str) -> str:
    """Remove separators that can only be thousands separators: `1{,}625`, `1,\\!625`, `1\\,625`, `1 625`."""
    text = re.sub(r"(?<=\d)\s*,\s*\\!\s*(?=\d{3})", "", text)
    text = re.sub(r"(?<=\d)\{(?:,|\\,)\}(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<![\d.,(\[])(\d{1,3})\.(\d{3}),(\d{1,2})(?!\d)", r"\1\2.\3", text)
    # two dots or more are no decimal point
    text = re.sub(r"(?<![\d.,])\d{1,3}(?:\.\d{3}){2,}(?![\d.])", lambda m: m[0].replace(".", ""), text)
    text = re.sub(r"(?<=\d)\{,\}(?=\d)", ".", text)
    text = re.sub(r"(?<=\d)\{\.\}(?=\d)", ".", text)
    text = re.sub(r"(?<=\d)(?:\\,|\\!|\\ |~|'(?=\d{3}))+(?=\d)", " ", text)
    text = text.replace("\\!", "").replace("\\,", " ")
    grouped = re.compile(r"(?<![\d.,}])([1-9]\d{0,2}(?: \d{3})+)(?![\d/]|\s*\\frac)")
    return grouped.sub(lambda m: m[1].replace(" ", ""), text)


def clean(text: str) -> str:
    """Answer text in one spelling: maths delimiters, spacing, sizes and fonts removed; words kept in `\\text{}`."""
    text = unify_unicode(text)
    text = _MARKDOWN.sub("", text)
    if "\\begin" not in text:
        # commands whose backslash was escaped once more than needed
        text = re.sub(r"\\\\(?=[A-Za-z]{2})", r"\\", text)
    text = text.replace("\\\\", "\\cr ")
    text = _SYSTEM.sub(_listed, text)
    if text.count("$") == 1:
        # no delimiter of maths, which come in pairs
        text = re.sub(r"(?<!\\)\$(?=\s*\d)", r"\\$", text)
    text = re.sub(r"\\(?:text|mathrm|operatorname)\s*\{\s*(gcd|lcm|max|min)\s*\}(?=\s*[({])", r"\\\1 ", text)
    text = re.sub(r"\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?", r"\\overline{\1\2\3}", text)
    text = re.sub(r"\\[()\[\]]|(?<!\\)\$", " ", text)
    text = _COLOUR.sub("", text)
    text = _DROPPED.sub(" ", text)
    text = join_thousands(text)
    text = _SPACES.sub(" ", text)
    text = unwrap(text, _FONT_WRAPPER)
    text = unwrap_text(text)
    text = _COMMAND.sub(_rename, text)
    text = re.sub(r"\^\s*\{?\s*(?:\\text\{\s*o\s*\}|o(?![A-Za-z]))\s*\}?", r"^\\circ ", text)
    text = re.sub(r"\\frac\s*\{\s*\\text\{([^{}]*)\}\s*\}\s*\{\s*\\text\{([^{}]*)\}\s*\}", r"\\text{\1/\2}", text)
    text = re.sub(r"\\(?:blacksquare|square|Box|qed|checkmark)(?![A-Za-z])\s*$", "", text)
    text = re.sub(r"(?<=\d)\s*\.\.\.+", r"\\ldots ", text)
    text = re.sub(r"\s+", " ", text).strip()
    while text and (text[-1] in ".;,!?" and not text.endswith("\\!") and not re.search(r"[\w})\]]!$", text)):
        text = text[:-1].rstrip()
    return strip_group(text)


def _listed(match: re.Match[str]) -> str:
    """A system of equations as the list it is; pieces of a function, which have conditions, stay as they are."""
    rows = [row.strip().rstrip(",") for row in match[2].split("\\cr ") if row.strip()]
    if any("=" not in row for row in rows) or (match[1] == "cases" and "&" in match[2]):
        return match[0]
    return " , ".join(row.replace("&", "") for row in rows)


def unwrap_text(text: str) -> str:
    """All text-like wrappers as `\\text{content}`, innermost content flat."""
    pieces: list[str] = []
    position = 0
    while match := _TEXT_WRAPPER.search(text, position):
        end = closing_brace(text, match.end() - 1)
        pieces.append(text[position : match.start()])
        if end < 0:
            position = match.end()
            continue
        inner = _TEXT_WRAPPER.sub("{", text[match.end() : end])
        inner = re.sub(r"(?<!\\)[{}]", "", inner) if "\\" not in inner else inner
        # words of maths set upright are maths: functions, e, i, d
        if re.fullmatch(r"\s*(?:[\d.,+\-/ ()]+|e|i|\\[a-z]+.*)\s*", inner):
            pieces.append(f" {inner} ")
        else:
            pieces.append("\\text{" + inner + "}")
        position = end + 1
    return "".join(pieces) + text[position:]


def _rename(match: re.Match[str]) -> str:
    name = _RENAMED.get(match[1], match[1])
    return (
        ("\\" if name.isalpha() or name in "{}" else "") + name + (" " if name.isalpha() and name != match[1] else "")
    )


def strip_group(text: str) -> str:
    """Without braces that enclose everything."""
    while text.startswith("{") and closing_brace(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def split_top(text: str, separators: re.Pattern[str]) -> list[str]:
    """Split where `separators` match outside every bracket and group; ends of half-open intervals count as brackets."""
    parts: list[str] = []
    depth = start = i = 0
    while i < len(text):
        if depth == 0 and (match := separators.match(text, i)) and match.end() > i:
            parts.append(text[start:i])
            start = i = match.end()
            continue
        if text.startswith((r"\{", r"\langle", r"\begin"), i):
            depth += 1
        elif text.startswith((r"\}", r"\rangle", r"\end"), i):
            depth -= 1
        elif text[i] in "([{" and (i == 0 or text[i - 1] != "\\"):
            depth += 1
        elif text[i] in ")]}" and (i == 0 or text[i - 1] != "\\"):
            depth -= 1
        depth = max(depth, 0)
        i += 2 if text[i] == "\\" and i + 1 < len(text) and text[i + 1] in "{}\\" else 1
    parts.append(text[start:])
    return [part.strip() for part in parts]
