"""Chains that are verified in passes: what their replies say, where they are wrong on purpose, which are asked."""

from __future__ import annotations

import random
import re
from collections import Counter

from kvrepro.benchmarks.chains.language import LABELS, THINK_END
from kvrepro.benchmarks.chains.problems import MOST_LINES, TASKS, sample_problem
from kvrepro.training.questions import tiny_questions

from .chains import solve


def test_a_verified_reply_computes_the_chain_once_more_per_pass_and_counts_down():
    rng = random.Random(3)
    for passes in (1, 3):
        problem = sample_problem(rng, 9, "digits", passes)
        assert problem.question().endswith(f"; wait {passes}")
        thought = "".join(problem.reply_pieces(rng)).split(THINK_END)[0]
        heads = re.findall(r"^(\d)([A-Z]) ", thought, re.MULTILINE)
        assert heads == [(str(left), label) for left in reversed(range(passes + 1)) for label in LABELS[:9]]


def test_mistakes_are_followed_up_and_a_later_pass_corrects_them():
    """Every token of a thought is the question's, what was said last, or computed from it, except where noted."""
    rng, kinds = random.Random(4), Counter()
    for _ in range(60):
        problem = sample_problem(rng, rng.randint(5, 14), rng.choice(TASKS), rng.randint(1, 4))
        values, gold = solve(problem.question())
        asked = dict(re.findall(r"([A-Z]) ([a-z]:=[^;]+);", problem.question()))
        worked = problem.worked_reply(rng, 0.3)
        said: dict[str, int] = {}
        place, noted = 0, set(worked.mistakes)
        thought = worked.pieces[: worked.pieces.index(THINK_END)]
        for line in "".join(thought).splitlines():
            n_tokens = next(i for i, piece in enumerate(thought[place:]) if piece == "\n") + 1
            tokens, first = thought[place : place + n_tokens], place
            place += n_tokens
            label, definition, mentions = re.fullmatch(r"(?:wait )?\d?([A-Z]) (\S+); (.*?)(?: ok)?", line).groups()
            here = [first + i for i in range(n_tokens) if first + i in noted]
            found = []
            if definition != asked[label]:
                (place_of,) = here
                assert thought[place_of] in definition, line
                found.append("definition")
            name, formula = definition.split(":=")
            *operands, (last, digit) = re.findall(r"([a-z])=(\d)", mentions)
            for operand, value in operands:
                found += ["operand"] if said[operand] != int(value) else []
                said[operand] = int(value)
            found += ["value"] if eval(formula, {"__builtins__": {}}, said) % 10 != int(digit) else []
            assert last == name
            said[name] = int(digit)
            assert len(found) == len(here) <= 1, (line, tokens)
            kinds.update(found)
        assert said == values, "the last pass is right"
        assert "".join(worked.pieces).endswith(f"\\boxed{{{gold}}}")
        turns = "".join(worked.pieces[turn] for turn in worked.turns)
        assert turns == "".join(map(str, reversed(range(problem.passes + 1)))) + THINK_END
    assert set(kinds) == {"definition", "operand", "value"}


def test_questions_ask_for_as_many_passes_as_a_thought_has_room_for():
    asked = []
    for question in tiny_questions("train", 80, (8, 22), 0, (1, 6)):
        (passes,) = map(int, re.findall(r"; wait (\d)$", question.text))
        n_variables = len(re.findall(":=", question.text))
        assert (passes + 1) * n_variables <= MOST_LINES
        asked.append(passes)
    assert set(asked) == {1, 2, 3, 4, 5, 6}
    assert not any("wait" in question.text for question in tiny_questions("train", 20, (8, 22), 0))
