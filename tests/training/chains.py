"""Chains of the tiny reasoners solved from the text alone, sharing no code with the generator."""

from __future__ import annotations

import re


def solve(question: str) -> tuple[dict[str, int], str]:
    """Values of all variables, and the gold."""
    *lines, asked = re.split(r"; (?=[A-Z] |find )", question)
    values: dict[str, int] = {}
    for label, line in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", lines, strict=False):
        name, expression = re.fullmatch(rf"{label} ([a-z]):=([a-z0-9+*-]+)", line).groups()
        assert name not in values, "a variable is defined once"
        values[name] = eval(expression, {"__builtins__": {}}, values) % 10
    asked = re.sub(r"; wait \d$", "", asked.removeprefix("find "))
    if "; " in asked:
        name, options = asked.split("; ")
        offered = {int(o.split(" is ")[0]): o[-2] for o in options.split(",")}
        assert len(offered) == 4, "options are distinct"
        return values, offered[values[name]]
    if "+" in asked:
        return values, str(sum(values[name] for name in asked.split("+")))
    return values, "".join(str(values[name]) for name in asked.split(","))
