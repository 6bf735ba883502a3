"""Sets of numbers as ranges: against Python's own sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transforms.streaming import taken
from transforms.streaming.taken import Taken, TakenBySession


@given(st.lists(st.integers(0, 40)))
def test_it_holds_what_a_set_holds(numbers):
    ranges, plain = Taken(), set()
    for number in numbers:
        ranges.add(number)
        plain.add(number)
        assert [n in ranges for n in range(42)] == [n in plain for n in range(42)]
    runs = sum(n - 1 not in plain for n in plain)
    assert len(ranges) == runs


def test_a_long_count_takes_no_memory():
    ranges = Taken()
    for number in range(100_000):
        ranges.add(number)
    assert len(ranges) == 1
    assert 99_999 in ranges and 100_000 not in ranges


def test_of_too_many_holes_the_lowest_are_given_up(monkeypatch):
    monkeypatch.setattr(taken, "MAX_HOLES", 3)
    ranges = Taken()
    for number in range(0, 20, 2):
        ranges.add(number)
    assert len(ranges) == 4
    assert [n for n in range(20) if n not in ranges] == [13, 15, 17, 19]


def test_sessions_are_apart_and_the_lowest_is_given_up(monkeypatch):
    monkeypatch.setattr(taken, "MAX_SESSIONS", 2)
    both = TakenBySession()
    for session in (1, 2, 3):
        both.add((session, 0))
    assert (3, 0) in both and (3, 1) not in both and (2, 1) not in both
    assert (1, 0) in both and (1, 99) in both and (0, 0) in both
    both.add((0, 5))  # of a session that was given up
    assert len(both._sessions) == 2
