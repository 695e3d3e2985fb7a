"""Parts of a cell that runs of their own make, and who makes which: no reply twice at a time, nobody for ever.

A run takes its claim first and looks at the others' afterwards, so of two runs one sees the other at least. The plain
run of a cell goes before all parts, of two divisions the coarser one before the finer: who sees a claim that goes
before its own gives its own back and waits; who sees one that goes after keeps its own and waits. GPUs are taken after
claims, so whoever is waited for can get one.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import TypeVar

from ..claims import held, wait_until_free
from ..errors import KvreproError
from .folder import CellFolder

Item = TypeVar("Item")


@dataclass(frozen=True)
class Part:
    """Part `index` (from 1) of `of` parts of a cell's replies."""

    index: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """From `I/N`, such as `2/3`.

        Raises:
            KvreproError: anything else, or no such part.
        """
        if (found := re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)) and 1 <= (index := int(found[1])) <= int(found[2]):
            return cls(index, int(found[2]))
        raise KvreproError(f"--shard {text}: expected I/N, part I of N with I from 1 to N, such as 2/3")

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    @property
    def name(self) -> str:
        """As it stands in names of files."""
        return f"{self.index}of{self.of}"

    def take(self, items: Sequence[Item]) -> list[Item]:
        """Every `of`-th item."""
        return list(items[self.index - 1 :: self.of])

    def meets(self, other: Part) -> bool:
        """Whether a cell that is large enough has a reply in both."""
        return (self.index - other.index) % gcd(self.of, other.of) == 0


def part_claims(working: Path) -> dict[Path, Part]:
    """Claims on parts of the cell whose unfinished run works in `working`, those of dead processes as well."""
    stem = f"{working.name.removesuffix('.partial')}.shard-"
    paths = working.parent.glob(f"{glob.escape(stem)}*of*.lock")
    named = ((path, re.fullmatch(r"(\d+)of(\d+)\.lock", path.name.removeprefix(stem))) for path in sorted(paths))
    return {path: Part(int(found[1]), int(found[2])) for path, found in named if found}


def wait_for_parts(working: Path, what: str) -> None:
    """Wait until nobody makes a part of the cell; for the plain run, once it has the cell's claim and before its GPUs.

    Args:
        working: where the unfinished cell lies.
        what: who waits, for messages, such as "cell x/y".

    Raises:
        OSError: a part's claim cannot be read or, of a dead process, removed.
    """
    # whoever takes a part from here on sees the cell's claim and gives the part back
    wait_until_free(part_claims(working), what)


@contextmanager
def claimed_part(folder: CellFolder, part: Part) -> Iterator[None]:
    """Hold a part of a cell inside the block, which begins when nobody else makes replies of this part.

    Another run of the same part, the cell's plain run and parts of another division that share replies are waited for.

    Raises:
        OSError, RunError: as `held`.
    """
    mine = folder.path.with_name(f".{folder.path.name}.shard-{part.name}.lock")
    what = f"part {part} of cell {folder.cell_id}"
    while True:
        with held(mine, what, wait=True):
            others = {path: other for path, other in part_claims(folder.partial).items() if other.meets(part)}
            first = [folder.lock, *(path for path, other in others.items() if other.of < part.of)]
            # also where it looks dead: only who has watched it for long enough knows
            if not any(path.exists() for path in first):
                wait_until_free([path for path, other in others.items() if other.of > part.of], what)
                yield
                return
        wait_until_free(first, what)
