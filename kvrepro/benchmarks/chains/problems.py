"""Chains of variable definitions modulo 10: the problems that the tiny models reason about.

A problem defines variables line by line, each from earlier ones, and asks for some of them:

    A m:=7; B y:=6; C n:=y-y; D b:=n*m; find b,m,n

The reply copies each definition, looks its operands up, writes the result, now and then re-checks an
earlier line, and closes with the values and a box. Every number is one digit, all arithmetic is modulo 10
except the final sum of a `sum` task.

A question may ask for verification: `; wait 3` at its end asks for three passes that compute the whole chain again.
Each line of the thought but a re-check then begins with how many passes are still to come, 3 to 0, so that no reply has
to count; lines are re-checked in the first pass only. What a later pass finds stands, so a mistake of an earlier one
does no harm: the last mention of a variable counts.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace

from .language import LABELS, NAMES, OPTION_LETTERS, THINK_END

TASKS = ("digits", "sum", "choice")
RECHECK_RATE = 0.3
MOST_LINES = 126  # of a thought, all passes together; with prompt and answer about as long as an example of training
MOST_PASSES = 9  # their number is one digit
# which questions may be trained on: a hash of the text decides, so no list has to be kept in step
SPLITS = ("train", "train", "train", "train", "train", "train", "held_out", "benchmark")


@dataclass(frozen=True)
class Definition:
    """`name` is the constant `left` when `operator` is empty, else `left operator right` modulo 10."""

    name: str
    operator: str
    left: str
    right: str = ""


@dataclass(frozen=True)
class WorkedReply:
    """A reply in tokens.

    Attributes:
        mistakes: indices of the tokens that are wrong on purpose.
        turns: indices of the tokens that say how many passes are still to come where that changes, and of the end.
    """

    pieces: list[str]
    mistakes: list[int]
    turns: list[int]


@dataclass(frozen=True)
class ChainProblem:
    """A list of definitions, what is asked of them, the four options of a `choice` task, and how often to verify."""

    definitions: tuple[Definition, ...]
    task: str
    targets: tuple[str, ...]
    options: tuple[int, ...] = ()
    passes: int = 0

    @property
    def values(self) -> dict[str, int]:
        """Value of every variable, 0-9, in the order of definition."""
        values: dict[str, int] = {}
        for d in self.definitions:
            values[d.name] = apply(d.operator, values[d.left], values[d.right]) if d.operator else int(d.left)
        return values

    @property
    def gold(self) -> str:
        """The text that belongs in the box: three digits, an integer 0-18, or a letter A-D."""
        values = [self.values[t] for t in self.targets]
        if self.task == "digits":
            return "".join(map(str, values))
        if self.task == "sum":
            return str(sum(values))
        return OPTION_LETTERS[self.options.index(values[0])]

    def question_pieces(self) -> list[str]:
        """The question as tokens."""
        pieces: list[str] = []
        for label, d in zip(LABELS, self.definitions, strict=False):
            pieces += [f"{label} ", *definition_pieces(d), "; "]
        pieces += ["find ", *self._asked_pieces()]
        return [*pieces, "; ", "wait ", str(self.passes)] if self.passes else pieces

    def _asked_pieces(self) -> list[str]:
        if self.task == "digits":
            a, b, c = self.targets
            return [a, ",", b, ",", c]
        if self.task == "sum":
            a, b = self.targets
            return [a, f"+{b}"]
        pieces = [self.targets[0], "; "]
        for letter, option in zip(OPTION_LETTERS, self.options, strict=True):
            pieces += [f"{option} is ", f"({letter})", ","]
        return pieces[:-1]

    def question(self) -> str:
        """The question as text, the only user message of the prompt."""
        return "".join(self.question_pieces())

    def reply_pieces(self, rng: random.Random) -> list[str]:
        """One correct reply, from the first trace line to the box; `rng` places the re-checks."""
        return self.worked_reply(rng).pieces

    def worked_reply(self, rng: random.Random, mistake_rate: float = 0.0) -> WorkedReply:
        """A reply whose box is right.

        Args:
            rng: places re-checks and mistakes.
            mistake_rate: of the lines before the last pass, how many hold a mistake: half of them a definition that is
                not the question's, half a wrong digit. What is computed from it is wrong too, until a re-check or the
                next pass states the value again.
        """
        trace, turns = _Trace(), []
        lines = list(zip(LABELS, self.definitions, strict=False))
        for to_come in range(self.passes, -1, -1):
            count = [str(to_come)] if self.passes else []
            if self.passes:
                turns.append(len(trace.pieces))
            checkable = []
            for label, d in lines:
                trace.pieces += count
                is_wrong = to_come > 0 and mistake_rate > 0 and rng.random() < mistake_rate
                trace.write(label, d, rng if is_wrong else None)
                trace.pieces.append("\n")
                if d.operator and to_come == self.passes:
                    checkable.append((label, d))
                    if rng.random() < RECHECK_RATE:
                        trace.pieces.append("wait ")
                        trace.write(*rng.choice(checkable))
                        trace.pieces += [" ok", "\n"]
        pieces = [*trace.pieces, THINK_END, "\n\n", *self._answer_pieces()]
        return WorkedReply(pieces, trace.mistakes, [*turns, len(trace.pieces)])

    def _answer_pieces(self) -> list[str]:
        """What follows the thought: every value, what was asked for, and the box."""
        values, pieces = self.values, []
        for label, d in zip(LABELS, self.definitions, strict=False):
            pieces += [f"{label} ", f"{d.name}=", str(values[d.name]), ","]
        pieces[-1] = ". so "
        for target in self.targets:
            pieces += [f"{target}=", str(values[target]), ","]
        if self.task == "sum":
            a, b = self.targets
            pieces += [a, f"+{b}", "=", *self.gold]
        elif self.task == "choice":
            pieces += [f"{values[self.targets[0]]} is ", f"({self.gold})"]
        else:
            pieces.pop()
        return [*pieces, " and the answer is ", "\\boxed{", *self.gold, "}"]


class _Trace:
    """The lines of a thought as they are written, and what each variable was last said to be."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.mistakes: list[int] = []
        self._said: dict[str, int] = {}

    def write(self, label: str, d: Definition, wrong: random.Random | None = None) -> None:
        """A line: the definition copied, its operands looked up, its value; `wrong` draws one token that is not so."""
        is_copy = wrong is not None and bool(self._said) and wrong.random() < 0.5
        if is_copy:
            d, place = self._miscopied(d, wrong)
            self.mistakes.append(len(self.pieces) + place)
        self.pieces += [f"{label} ", *definition_pieces(d), "; "]
        operands = (d.left, d.right) if d.operator else ()
        at = None if wrong is None or is_copy else wrong.randrange(len(operands) + 1)
        for i, operand in enumerate(operands):
            self._say(operand, self._said[operand], wrong if at == i else None)
            self.pieces.append(",")
        value = apply(d.operator, self._said[d.left], self._said[d.right]) if d.operator else int(d.left)
        self._say(d.name, value, wrong if at == len(operands) else None)

    def _miscopied(self, d: Definition, wrong: random.Random) -> tuple[Definition, int]:
        """A definition that differs in one token, and which one of the line that is."""
        if not d.operator:
            return replace(d, left=wrong.choice([c for c in "0123456789" if c != d.left])), 2
        side, place = wrong.choice((("left", 2), ("right", 3)))
        others = [name for name in self._said if name not in (d.name, getattr(d, side))]
        if not others:
            return replace(d, operator=wrong.choice([o for o in "+-*" if o != d.operator])), 3
        return replace(d, **{side: wrong.choice(others)}), place

    def _say(self, name: str, value: int, wrong: random.Random | None) -> None:
        if wrong is not None:
            value = wrong.choice([v for v in range(10) if v != value])
            self.mistakes.append(len(self.pieces) + 1)
        self.pieces += [f"{name}=", str(value)]
        self._said[name] = value


def apply(operator: str, left: int, right: int) -> int:
    """`left operator right` modulo 10."""
    return {"+": left + right, "-": left - right, "*": left * right}[operator] % 10


def definition_pieces(d: Definition) -> list[str]:
    """`n:=y-y` as tokens."""
    return [f"{d.name}:=", d.left, f"{d.operator}{d.right}"] if d.operator else [f"{d.name}:=", d.left]


def sample_problem(rng: random.Random, n_variables: int, task: str, passes: int = 0) -> ChainProblem:
    """A random problem of `n_variables` lines, 4 to 26; values are balanced so that no digit can be guessed.

    Args:
        passes: how often the reply computes the chain again, 0 to 9.

    Raises:
        ValueError: a number out of its range, or no such task.
    """
    if not 4 <= n_variables <= len(NAMES):
        raise ValueError(f"n_variables={n_variables}: a chain has 4 to {len(NAMES)} variables")
    if not 0 <= passes <= MOST_PASSES:
        raise ValueError(f"passes={passes}: a question asks for 0 to {MOST_PASSES}")
    if task not in TASKS:
        raise ValueError(f"task={task!r}: known tasks are {', '.join(TASKS)}")
    names = rng.sample(NAMES, n_variables)
    n_constants = rng.randint(2, 3) if n_variables > 5 else 1
    seen, counts, definitions = {}, [0] * 10, []
    for i, name in enumerate(names):
        if i < n_constants:
            d = Definition(name, "", str(rng.randrange(10)))
            value = int(d.left)
        else:
            earlier = names[:i]
            drawn = [(rng.choice("+-*"), rng.choice(earlier), rng.choice(earlier)) for _ in range(4)]
            # products make zeros frequent: of four draws take the value seen least
            operator, left, right = min(drawn, key=lambda t: counts[apply(t[0], seen[t[1]], seen[t[2]])])
            d, value = Definition(name, operator, left, right), apply(operator, seen[left], seen[right])
        seen[name] = value
        counts[value] += 1
        definitions.append(d)
    targets = tuple(rng.sample(names[n_constants:], {"digits": 3, "sum": 2, "choice": 1}[task]))
    options: tuple[int, ...] = ()
    if task == "choice":
        wrong = rng.sample([v for v in range(10) if v != seen[targets[0]]], 3)
        options = tuple(rng.sample([seen[targets[0]], *wrong], 4))
    return ChainProblem(tuple(definitions), task, targets, options, passes)


def split_of(question: str) -> str:
    """`train`, `held_out` (predictor validation) or `benchmark`; the same text always falls in the same split."""
    return SPLITS[hashlib.sha256(question.encode()).digest()[0] % len(SPLITS)]
