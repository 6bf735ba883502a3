"""Which numbers were taken already, in memory that does not grow with them."""

from __future__ import annotations

import bisect

MAX_HOLES = 1_000
MAX_SESSIONS = 100


class Taken:
    """A set of numbers that mostly follow one another, kept as ranges.

    Of more than ``MAX_HOLES`` holes between them the lowest counts as taken: what comes so late
    is given up.
    """

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._ends: list[int] = []  # behind the last

    def __contains__(self, number: int) -> bool:
        at = bisect.bisect_right(self._firsts, number) - 1
        return at >= 0 and number < self._ends[at]

    def __len__(self) -> int:
        """How many ranges there are."""
        return len(self._firsts)

    def add(self, number: int) -> None:
        """Take it."""
        if number in self:
            return
        at = bisect.bisect_right(self._firsts, number)
        joins_left = at > 0 and self._ends[at - 1] == number
        joins_right = at < len(self._firsts) and self._firsts[at] == number + 1
        if joins_left and joins_right:
            self._ends[at - 1] = self._ends[at]
            del self._firsts[at], self._ends[at]
        elif joins_left:
            self._ends[at - 1] += 1
        elif joins_right:
            self._firsts[at] = number
        else:
            self._firsts.insert(at, number)
            self._ends.insert(at, number + 1)
        if len(self._firsts) > MAX_HOLES + 1:
            del self._firsts[1], self._ends[0]


class TakenBySession:
    """The same of pairs (session, number); of more than ``MAX_SESSIONS`` the lowest is given up."""

    def __init__(self) -> None:
        self._sessions: dict[int, Taken] = {}
        self._least = 0  # whatever is below counts as taken

    def __contains__(self, key: tuple[int, int]) -> bool:
        session, number = key
        if session < self._least:
            return True
        return session in self._sessions and number in self._sessions[session]

    def add(self, key: tuple[int, int]) -> None:
        """Take it."""
        session, number = key
        if session < self._least:
            return
        self._sessions.setdefault(session, Taken()).add(number)
        if len(self._sessions) > MAX_SESSIONS:
            lowest = min(self._sessions)
            del self._sessions[lowest]
            self._least = lowest + 1
