"""The names of the files of a stream's folder: which are blocks or segments, and in what order."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from transforms.errors import Reason, StageError
from transforms.listing import SIDECARS
from transforms.streaming.blocks import SUFFIX

UNFINISHED = frozenset({".tmp", ".part", ".partial"})
"""Extensions of files that are not there yet."""

Key = tuple[int, int]
"""Session and number of a file; files are read in this order."""

_BLOCK = re.compile(r"(0|[1-9]\d{0,18})-(\d{10}|[1-9]\d{10,18})" + re.escape(SUFFIX), re.ASCII)
_SEGMENT = re.compile(r"(.*?)(\d{1,18})(\D*)", re.ASCII | re.DOTALL)


def is_left_out(name: str) -> bool:
    """Whether a name is hidden, unfinished, or of a kind of file that lies beside music."""
    ending = os.path.splitext(name)[1].lower()
    return name.startswith(".") or ending in UNFINISHED or ending in SIDECARS


class Blocks:
    """``SESSION-SEQUENCE.block``, as :attr:`transforms.streaming.blocks.Block.file_name`."""

    def key(self, name: str) -> Key:
        """Its place.

        Raises
        ------
        StageError
            ``malformed_block``: it has none.
        """
        found = _BLOCK.fullmatch(name)
        if found is None:
            raise StageError(
                Reason.MALFORMED_BLOCK,
                f"its folder holds blocks; name a block as 0-0000000012{SUFFIX}, and keep other "
                "files elsewhere",
            )
        return int(found[1]), int(found[2])


@dataclass(frozen=True)
class Segments:
    """Audio files that a recorder numbers: nothing but the number differs in their names.

    The number is the last group of digits in front of the extension, at least ``width`` long.
    """

    before: str
    after: str
    width: int

    @classmethod
    def like(cls, name: str) -> Segments | None:
        """The names of which ``name`` is one; None if it holds no number."""
        stem, ending = os.path.splitext(name)
        found = _SEGMENT.fullmatch(stem)
        if found is None:
            return None
        before, digits, after = found.groups()
        return cls(before, after + ending, len(digits) if digits.startswith("0") else 1)

    def key(self, name: str) -> Key:
        """As :meth:`Blocks.key`."""
        if name.startswith(self.before) and name.endswith(self.after):
            digits = name[len(self.before) : len(name) - len(self.after)]
            if digits.isascii() and digits.isdigit() and self.name(int(digits)) == name:
                return 0, int(digits)
        raise StageError(
            Reason.MALFORMED_BLOCK,
            f"does not count on from {self.name(0)}, by which the segments of this folder are "
            "named; keep it in a folder of its own",
        )

    def name(self, number: int) -> str:
        """The name of a segment."""
        return f"{self.before}{number:0{self.width}d}{self.after}"


def naming_of(names: Iterable[str]) -> Blocks | Segments | None:
    """How the files of a folder are named: as blocks if one ends so, else as its first segment.

    None if no name tells.
    """
    names = list(names)
    if any(name.endswith(SUFFIX) for name in names):
        return Blocks()
    found = []
    for name in names:
        naming = Segments.like(name)
        if naming is not None:
            found.append((naming.key(name), name, naming))
    return min(found, key=lambda one: one[:2])[2] if found else None
