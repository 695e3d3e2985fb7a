"""What README, CONTRIBUTING and docs/ hold that can be run: code blocks, command lines, options."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache
from itertools import product

from kvrepro.paths import PACKAGE

ROOT = PACKAGE.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# a code span in the text that begins with one of these is a command line
PROGRAMS = {
    "kvrepro",
    "make",
    "papermill",
    "pip",
    "hf",
    "conda",
    "python",
    "python3",
    "accelerate",
    "jupyter",
    "snakemake",
    "ruff",
    "sbatch",
    "awk",
}
_FENCE = re.compile(r"^ {0,3}```([^\n`]*)\n(.*?)^ {0,3}```\s*?$", re.MULTILINE | re.DOTALL)
_BEGINS = re.compile(r"\||#|\s*(?:[-*]|\d+\.) ")
_ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=")


def variables_read() -> set[str]:
    """The environment variables of ours that the code reads."""
    sources = (PACKAGE / "paths.py", ROOT / "kernels" / "launch.py")
    return {name for path in sources for name in re.findall(r'"(KVREPRO_[A-Z]+)"', path.read_text())}


@dataclass(frozen=True)
class Block:
    """A fenced code block; `number` counts those of its page and language."""

    page: str
    language: str
    number: int
    text: str


@dataclass(frozen=True)
class Command:
    """A command line without comment, environment and `.venv/bin/`; `text` quotes it as a shell would read it."""

    words: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        return shlex.join(self.words)


@cache
def blocks(language: str | None = None) -> list[Block]:
    """The code blocks of all pages, or those of one language."""
    found: list[Block] = []
    for page in PAGES:
        where = page.relative_to(ROOT).as_posix()
        for name, text in _FENCE.findall(page.read_text()):
            number = sum((b.page, b.language) == (where, name.strip()) for b in found)
            found.append(Block(where, name.strip(), number, text))
    return [b for b in found if language in (None, b.language)]


@cache
def paragraphs() -> list[str]:
    """The text between the code blocks on one line each: a paragraph, a list item or a table row."""
    found: list[str] = []
    for page in PAGES:
        is_open = False
        for line in _FENCE.sub("\n", page.read_text()).splitlines():
            if is_open and line.strip() and not _BEGINS.match(line):
                found[-1] += " " + line.strip()
            else:
                found.append(line)
            is_open = bool(line.strip()) and not line.startswith(("|", "#"))
    return [text for text in found if "`" in text]


def code_spans(paragraph: str) -> list[str]:
    """What stands between backticks; in a table a bar is written with a backslash."""
    return [span.strip().replace("\\|", "|") for span in re.findall(r"`([^`]+)`", paragraph)]


def commands_of(script: str) -> list[Command]:
    """The commands of a shell script, without comments and redirections.

    `&&`, pipes and line ends stand between commands; `a|b` in a word stands for two commands.
    """
    found = []
    for line in script.replace("\\\n", " ").splitlines():
        words: list[str] = []
        given = iter([*shlex.split(line, comments=True), "&&"])
        for word in given:
            if word == ">":
                next(given)
            elif word not in ("&&", "|"):
                words.append(word)
            elif words:
                found += _alternatives(words)
                words = []
    return found


def _alternatives(words: list[str]) -> list[Command]:
    environment = []
    while words and _ASSIGNMENT.match(words[0]):
        name, _, value = words[0].partition("=")
        environment.append((name, value))
        words = words[1:]
    # `list models|methods` stands for two commands; a bar inside a quoted value does not
    choices = [w.split("|") if re.fullmatch(r"[\w-]+(\|[\w-]+)+", w) else [w] for w in words]
    choices[0] = [choices[0][0].removeprefix(".venv/bin/")]
    return [Command(tuple(chosen), tuple(environment)) for chosen in product(*choices)]


def _span_commands(span: str) -> list[Command]:
    words = span.split()
    first = next((w for w in words if not _ASSIGNMENT.match(w)), "").removeprefix(".venv/bin/")
    # `kvrepro bench` in a sentence names a command, it is no command line
    named = first == "kvrepro" and len(words) == 2
    return commands_of(span) if first in PROGRAMS and not named and (len(words) > 1 or first == "make") else []


@cache
def commands() -> list[Command]:
    """Every command line of all pages once, in order."""
    scripts = [c for block in blocks("bash") for c in commands_of(block.text)]
    inline = [c for p in paragraphs() for span in code_spans(p) for c in _span_commands(span)]
    return list(dict.fromkeys([*scripts, *inline]))


def named_commands() -> set[str]:
    """The subcommands of kvrepro that any text names."""
    spans = [span.split() for p in paragraphs() for span in code_spans(p)]
    return {words[1] for words in spans if words[:1] == ["kvrepro"] and len(words) > 1}


def named_options() -> set[str]:
    """Options that stand alone in a sentence, such as `--gpu h100`."""
    spans = [span for p in paragraphs() for span in code_spans(p) if span.startswith("--")]
    return {word for span in spans for word in span.split() if word.startswith("--")}
