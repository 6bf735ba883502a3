"""Whether systems gave the same tracks the same labels, and how far their scores are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.throughput.peers.command import Row
from benchmarks.throughput.systems import System


@dataclass(frozen=True)
class Agreement:
    """One system's rows against a reference's.

    Parameters
    ----------
    system, reference : System
    equal_share : float
        Of the tracks, those with the same label, 0 to 1.
    greatest_difference : float
        Of one score, 0 to 1.
    differing : tuple of str
        Paths of the tracks with another label.
    """

    system: System
    reference: System
    equal_share: float
    greatest_difference: float
    differing: tuple[str, ...]

    @property
    def acceptable(self) -> bool:
        """False where two that compute in float32 gave another label."""
        both_exact = self.system.precision == self.reference.precision == "float32"
        return not (both_exact and self.differing)


def compare(
    system: System, rows: Sequence[Row], reference: System, reference_rows: Sequence[Row]
) -> Agreement:
    """Compare rows of the same tracks, in any order."""
    expected = {row["path"]: row for row in reference_rows}
    pairs = [(row, expected[row["path"]]) for row in rows]
    differing = sorted(row["path"] for row, other in pairs if row["label"] != other["label"])
    greatest = max(
        abs(score - other_score)
        for row, other in pairs
        for score, other_score in zip(row["scores"], other["scores"], strict=True)
    )
    share = 1 - len(differing) / len(pairs)
    return Agreement(system, reference, share, greatest, tuple(differing))


def agreements(rows: Mapping[System, Sequence[Row]]) -> list[Agreement]:
    """Compare every system with the first one, which computes in float32 if any does."""
    ordered = sorted(rows, key=lambda system: system.precision != "float32")
    return [compare(system, rows[system], ordered[0], rows[ordered[0]]) for system in ordered[1:]]
