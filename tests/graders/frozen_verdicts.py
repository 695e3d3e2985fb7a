"""Verdicts of both graders, frozen: what they say of the case table, and of probes made from its golds and replies.

`python -m tests.graders.frozen_verdicts record` writes them, `... compare` reports by kind which ones have changed
since (exit status 1 if one of the case table did); `--all` shows each, `--table` leaves the probes out. Run it before
and after a change of the graders: the case table says what is right, the probes only what is so.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kvrepro.graders import GRADERS, KINDS, Score, grade_many

CASES = Path(__file__).parents[1] / "cases"
FROZEN = CASES / "frozen_verdicts.json"
# an answer in other clothes: some are still right, some are not, and none may change its verdict unnoticed
CLOTHES = (
    "{}",
    "-{}",
    "{}1",
    "{}.0",
    "x = {}",
    "({})",
    r"\text{{{}}}",
    r"{}\%",
    r"{}^\circ",
    r"{} \text{{ cm}}",
    "{} km",
    "{} apples",
    r"\{{{}\}}",
    r"\${}",
    r"\frac{{{}}}{{2}}",
    r"{} \text{{ or }} 7",
    r"{}^2",
    "the answer is {}",
    r"\approx {}",
    "{} (mod 7)",
)
# a reply without a box that states, hedges or withdraws a value
SENTENCES = (
    "So the total is {}.",
    "Thus x = ${}$.",
    "**{}**",
    "The answer is {}, not {other}.",
    "It is {} or {other}.",
    "Maybe {}.",
    "We get {other}. Wait, it should be {}.",
    "Total: {}",
    r"\[ x = {} \]",
    "She needs {} cm of rope.",
    "Is it {}?",
    "First ${other}$, so ${}$ in all.",
    "The result is not {}.",
    "| total | **{}** |",
    "{}",
    "Therefore, we find {} (that is, {other}).",
)
CHOICES = (
    "So it must be {}.",
    "Option {} is wrong, so {other}.",
    "A: false\nB: true\nC: false\nD: {}",
    "({})",
    "I would pick {} or {other}.",
    r"\boxed{{\text{{{}}}}}",
    "{} is the only one that fits.",
    "Answer: **{}**, but torn between them and {other}.",
    "Only {} remains.",
    "The answer is {}?",
    "Not {} but {other}.",
    "Hence option ({}), since {other} fails.",
    "{} and {other}",
    "Antwort {}.",
)


def case_rows() -> dict[str, list[dict[str, Any]]]:
    """The case table by kind."""
    return {kind: json.loads((CASES / f"{kind}.json").read_text(encoding="utf-8")) for kind in KINDS}


def case_items(rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Rows of the case table as items of `grade_many`."""
    fields = ("response", "gold", "finish_reason", "options")
    return [{"kind": kind, **{name: row[name] for name in fields if name in row}} for row in rows]


def probes(rows: list[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    """Golds in other clothes and against one another, replies without their boxes or their last sentences."""
    golds = list(dict.fromkeys(row["gold"] for row in rows))
    others = golds[1:] + golds[:1]
    said = list(dict.fromkeys(answer for row in rows if (answer := _boxed(row["response"]))))
    for i, (gold, other) in enumerate(zip(golds, others, strict=True)):
        bare = gold.strip("$")
        held = [dress.format(bare) for dress in CLOTHES] + [golds[(i * 7 + 11 * j) % len(golds)] for j in range(1, 9)]
        yield from ({"response": f"</think>\\boxed{{{text}}}", "gold": gold, "kind": kind} for text in held)
        sentences = CHOICES if kind == "choice" else SENTENCES
        texts = [sentence.format(bare, other=other.strip("$")) for sentence in sentences]
        yield from ({"response": f"</think>{text}", "gold": gold, "kind": kind} for text in texts)
    for i, answer in enumerate(said):
        for j in range(1, 4):
            yield {
                "response": f"</think>\\boxed{{{answer}}}",
                "gold": golds[(i * 5 + 13 * j) % len(golds)],
                "kind": kind,
            }
    for item in case_items(rows, kind):
        text = item["response"]
        bare = re.sub(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}", r"\1", text)
        shorter = re.sub(r"(?<=[.!\n])[^.!\n]+[.!\n]*$", "", text)
        yield from (
            {**item, "response": other} for other in (bare, shorter, text + " I hope this helps!") if other != text
        )


def _boxed(response: str) -> str | None:
    match = re.search(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}", response)
    return match[1] if match and len(match[1]) < 80 else None


def _mark(score: Score) -> str:
    return (
        "1"
        if score.correct
        else {"ok": "0", "no_answer": "n", "ambiguous": "a", "truncated": "t"}.get(score.status, "e")
    )


def _answers(scores: list[Score]) -> list[str]:
    """A short sum of each extracted answer, which says whether it changed."""
    return [
        "-" if s.answer is None else f"{zlib.crc32(s.answer.encode('utf-8', 'replace')) & 0xFFFF:x}" for s in scores
    ]


def measure(n_rows: dict[str, int] | None = None, with_probes: bool = True) -> dict[str, Any]:
    """Verdicts and answers by grader and kind, of the first `n_rows` rows of the case table and of their probes."""
    found: dict[str, Any] = {"n_rows": {}, "text": {}}
    for kind, rows in case_rows().items():
        rows = rows[: n_rows[kind] if n_rows else None]
        found["n_rows"][kind] = len(rows)
        found["text"][kind] = zlib.crc32(json.dumps(case_items(rows, kind)).encode())
        for grader in GRADERS:
            table = grade_many(case_items(rows, kind), grader=grader)
            # DynTS' grader is the simpler one: every fifth probe
            items = list(probes(rows, kind))[:: 1 if grader == "strict" else 5] if with_probes else []
            probed = grade_many(items, grader=grader)
            found[f"{grader} {kind}"] = {
                "table": "".join(map(_mark, table)),
                "table_answers": " ".join(_answers(table)),
                "table_rules": Counter(s.rule for s in table),
                "probes": "".join(map(_mark, probed)),
                "probe_answers": " ".join(_answers(probed)),
            }
            print(f"{grader} {kind}: {len(table)} replies, {len(probed)} probes", file=sys.stderr)
    return found


def compare(show_all: bool, with_probes: bool) -> int:
    """Print what changed, by kind and both ways; the number of verdicts of the case table that did."""
    old = json.loads(FROZEN.read_text(encoding="utf-8"))
    new = measure(old["n_rows"], with_probes)
    if old["text"] != new["text"]:
        raise SystemExit(
            "the frozen rows of the case table are not its first rows any more; add rows at the end of a file"
        )
    n_table = 0
    for grader in GRADERS:
        for kind, rows in case_rows().items():
            key, rows = f"{grader} {kind}", rows[: old["n_rows"][kind]]
            items = {
                "table": case_items(rows, kind),
                "probes": list(probes(rows, kind))[:: 1 if grader == "strict" else 5],
            }
            for part, name in (("table", "table_answers"), ("probes", "probe_answers"))[: 1 + with_probes]:
                before, after = old[key][part], new[key][part]
                changed = [(a, b, item) for a, b, item in zip(before, after, items[part], strict=True) if a != b]
                n_table += len(changed) if part == "table" else 0
                lost, gained = (sum((a, b)[i] == "1" for a, b, _ in changed) for i in (0, 1))
                answers = sum(a != b for a, b in zip(old[key][name].split(), new[key][name].split(), strict=True))
                print(
                    f"{key} {part}: {len(before)} held, {lost} accepted -> refused, {gained} refused -> accepted, "
                    f"{len(changed) - lost - gained} other statuses, {answers} other answers"
                )
                for a, b, item in changed:
                    if show_all or part == "table":
                        print(f"  {a} -> {b}  gold {item['gold']!r}, reply ...{item['response'][-110:]!r}")
    return n_table


def main() -> None:
    """`record` or `compare`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("--all", action="store_true", help="show the probes whose verdicts changed, too")
    parser.add_argument("--table", action="store_true", help="hold the case table only, in seconds")
    arguments = parser.parse_args()
    if arguments.action == "record":
        FROZEN.write_text(json.dumps(measure(), indent=0) + "\n", encoding="utf-8")
    else:
        raise SystemExit(1 if compare(arguments.all, not arguments.table) else 0)


if __name__ == "__main__":
    main()
