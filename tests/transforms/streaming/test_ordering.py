"""The order of blocks against a plain reading of what came when."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.streams import START_US, block
from transforms.errors import Reason, StageError
from transforms.streaming.blocks import Block, decode_block, encode_block
from transforms.streaming.ordering import (
    Cursor,
    Event,
    Flood,
    Gap,
    Order,
    OrderRules,
    SessionEnd,
)
from transforms.streaming.stream_state import StreamState

TENTH_US = 100_000
RULES = OrderRules(lateness_us=2_000_000, max_held_blocks=6, max_held_bytes=8_000)


class Heard:
    """An order whose state goes through bytes after every block."""

    def __init__(self, rules: OrderRules = RULES) -> None:
        self._rules = rules
        self.order = Order(rules, Cursor(), {})

    def _kept(self) -> None:
        state = StreamState.from_bytes(StreamState(cursor=self.order.cursor).to_bytes())
        held = [decode_block(encode_block(one)) for one in self.order.held.values()]
        assert state.cursor == self.order.cursor
        assert state.cursor.held_blocks == len(held)
        assert state.cursor.held_bytes == sum(len(one.payload) for one in held)
        self.order = Order(self._rules, state.cursor, {one.sequence: one for one in held})

    def arrive(self, one: Block) -> list[Event | Reason | str]:
        """Events; or the reason why it is refused; or "repeated"."""
        repeated = self.order.repeated
        try:
            events: list[Event | Reason | str] = list(self.order.arrive(one))
        except StageError as error:
            return [error.reason]
        if self.order.repeated > repeated:
            events.append("repeated")
        self._kept()
        return events

    def expire(self, now_us: int) -> list[Event]:
        events = list(self.order.expire(now_us))
        self._kept()
        return events

    def close(self) -> list[Event]:
        events = list(self.order.close())
        self._kept()
        return events


def short(events):
    """A sequence number for what is heard, and for a gap how much is lost."""
    return [
        one.sequence if isinstance(one, Block)
        else f"gap {one.lost_blocks}" if isinstance(one, Gap)
        else "flood" if isinstance(one, Flood)
        else "end" if isinstance(one, SessionEnd)
        else one
        for one in events
    ]  # fmt: skip


# By hand


def test_in_order():
    heard = Heard()
    assert [short(heard.arrive(block(sequence=n))) for n in range(3)] == [[0], [1], [2]]
    assert heard.order.due_us is None


def test_what_comes_too_early_waits():
    heard = Heard()
    assert short(heard.arrive(block(sequence=0))) == [0]
    assert heard.arrive(block(sequence=2)) == heard.arrive(block(sequence=3)) == []
    assert heard.order.due_us == block(sequence=2).event_time_us + 2_000_000
    assert short(heard.arrive(block(sequence=1))) == [1, 2, 3]
    assert heard.order.due_us is None


def test_what_is_missing_is_given_up_after_the_lateness_and_not_before():
    heard = Heard()
    heard.arrive(block(sequence=0)), heard.arrive(block(sequence=3))
    due_us = heard.order.due_us
    assert heard.expire(due_us - 1) == []
    assert short(heard.expire(due_us)) == ["gap 2", 3]
    assert heard.expire(due_us) == heard.expire(2**62) == []
    assert short(heard.arrive(block(sequence=4))) == [4]
    assert short(heard.arrive(block(sequence=2))) == [Reason.LATE_BLOCK]
    assert short(heard.arrive(block(sequence=3))) == ["repeated"]


def test_only_the_first_hole_may_be_due():
    heard = Heard()
    for sequence in (0, 2, 10):
        heard.arrive(block(sequence=sequence))
    assert short(heard.expire(block(sequence=2).event_time_us + 2_000_000)) == ["gap 1", 2]
    assert heard.order.due_us == block(sequence=10).event_time_us + 2_000_000


def test_repetitions():
    heard = Heard()
    first, third = block(sequence=0), block(sequence=2)
    assert short(heard.arrive(first)) == [0]
    assert short(heard.arrive(first)) == ["repeated"]
    assert heard.arrive(third) == []
    assert short(heard.arrive(third)) == ["repeated"]
    assert short(heard.arrive(block(sequence=1))) == [1, 2]
    assert short(heard.arrive(third)) == ["repeated"]


def test_joining_a_stream_in_its_midst():
    heard = Heard()
    assert heard.arrive(block(sequence=501)) == heard.arrive(block(sequence=500)) == []
    assert short(heard.expire(heard.order.due_us)) == [500, 501]
    assert short(heard.arrive(block(sequence=499))) == [Reason.LATE_BLOCK]
    assert short(heard.arrive(block(sequence=502))) == [502]


def test_the_end():
    heard = Heard()
    last = block(sequence=2, last=True)
    assert heard.arrive(last) == []
    assert heard.arrive(block(sequence=5)) == []
    assert short(heard.arrive(block(sequence=0))) == [0]
    assert short(heard.arrive(block(sequence=1))) == [1, 2, "end"]
    assert heard.order.held == {}
    assert short(heard.arrive(block(sequence=3))) == [Reason.LATE_BLOCK]
    assert short(heard.arrive(last)) == ["repeated"]
    assert heard.close() == heard.expire(2**62) == []


def test_a_new_session_ends_the_one_before():
    heard = Heard()
    heard.arrive(block(sequence=0)), heard.arrive(block(sequence=2))
    assert short(heard.arrive(block(session=1, sequence=0))) == ["gap 1", 2, "end", 0]
    assert short(heard.arrive(block(sequence=1))) == [Reason.LATE_BLOCK]
    assert heard.arrive(block(session=7, sequence=3))[0] == SessionEnd()
    assert heard.order.cursor.session == 7
    assert short(heard.expire(heard.order.due_us)) == [3]


def test_an_unheard_session_has_no_end():
    heard = Heard()
    assert heard.close() == []
    assert short(heard.arrive(block(session=3, sequence=0))) == [0]


def test_numbers_at_the_edge():
    most = 2**62
    heard = Heard()
    assert short(heard.arrive(block(session=most, sequence=0, event_time_us=0))) == [0]
    edge = block(session=most, sequence=most, event_time_us=2**57)
    assert heard.arrive(edge) == []
    assert short(heard.expire(heard.order.due_us)) == [f"gap {most - 1}", most]
    assert short(heard.arrive(edge)) == ["repeated"]
    middle = block(session=most, sequence=2**61, event_time_us=2**56)
    assert short(heard.arrive(middle)) == [Reason.LATE_BLOCK]


def test_what_waits_is_bounded_in_bytes():
    heard = Heard()
    found = [short(heard.arrive(block(sequence=n))) for n in (0, 2, 4, 6, 8, 10, 12)]
    payload = len(block().payload)
    assert payload * 5 <= RULES.max_held_bytes < payload * 6
    assert found == [[0], [], [], [], [], [], ["gap 1", 2]]


def test_what_waits_is_bounded_in_number():
    heard = Heard()
    found = [short(heard.arrive(block(sequence=n, frames=0))) for n in range(2, 9)]
    assert found == [[], [], [], [], [], [], [2, 3, 4, 5, 6, 7, 8]]


# Floods


def second(sequence: int, at_s: float, **changes) -> Block:
    return block(sequence=sequence, event_time_us=START_US + round(1e6 * at_s), frames=8_000,
                 **changes)  # fmt: skip


FLOOD_RULES = OrderRules(max_ahead_us=5_000_000, max_held_bytes=10**6)


def test_real_time_never_floods():
    heard = Heard(FLOOD_RULES)
    for n in range(200):  # with a clock that is half a percent slow, and blocks that jitter
        assert short(heard.arrive(second(n, 0.995 * n + 0.3 * (n % 3)))) == [n]


def test_a_flood_is_told_once_until_half_of_it_has_leaked():
    heard, told = Heard(FLOOD_RULES), []
    for n in range(120):  # ten times as fast as time passes
        (event,) = heard.arrive(second(n, 0.1 * n))
        told.append("heard" if isinstance(event, Block) else "first" if event.first else "")
    first, again, *_ = (n for n, what in enumerate(told) if what == "first")
    assert told[:first] == ["heard"] * first
    assert 4 <= first <= 7
    dropped = told[first:again].index("heard")
    assert 20 <= dropped <= 36  # of 5 s, half leaks in 2.5 s; and a second must find room
    assert told[first + dropped : again] == ["heard"] * (again - first - dropped)
    assert told[first + 1 : first + dropped] == [""] * (dropped - 1)


def test_a_flood_ends_when_time_has_caught_up():
    heard = Heard(FLOOD_RULES)
    for n in range(8):
        heard.arrive(second(n, 0))
    later = [short(heard.arrive(second(8 + n, 1.0 + n))) for n in range(8)]
    at = later.index([8 + 3])
    assert later[:at] == [["flood"]] * at
    assert later[at:] == [[8 + n] for n in range(at, 8)]


def test_time_that_stands_still_floods():
    heard = Heard(FLOOD_RULES)
    found = [short(heard.arrive(second(n, 0))) for n in range(10)]
    assert found == [[n] for n in range(6)] + [["flood"]] * 4
    assert short(heard.arrive(second(7, 0))) == [Reason.LATE_BLOCK]


def test_a_flooded_block_out_of_turn_is_lost_once():
    """As if it had not come: what is in front of it may still, and its gap counts it."""
    heard = Heard(FLOOD_RULES)
    for n in range(6):
        heard.arrive(second(n, 0))
    (flood,) = heard.arrive(second(8, 0))
    assert (flood.first, flood.in_turn) == (True, False)
    assert short(heard.arrive(second(6, 6))) == [6]
    assert heard.arrive(second(9, 9)) == []
    assert short(heard.expire(2**60)) == ["gap 2", 9]


def test_a_flood_before_the_beginning():
    heard = Heard(FLOOD_RULES)
    for n in range(3, 9):
        assert heard.arrive(second(n, 0)) == []
    (flood,) = heard.arrive(second(9, 0))
    assert not flood.in_turn
    assert short(heard.expire(2**60)) == [3, 4, 5, 6, 7, 8]


def test_the_end_of_a_stream_that_floods_is_its_end():
    heard = Heard(FLOOD_RULES)
    for n in range(6):
        heard.arrive(second(n, 0))
    assert short(heard.arrive(second(6, 0, last=True))) == ["flood", "end"]
    assert heard.close() == []


# In any order


class Model(RuleBasedStateMachine):
    """Blocks in any order, some again, some never; time passes.

    The books: each block that came is heard, or late, or still waits; each number between the
    first and the newest that was heard was heard or is in a gap.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heard = Heard()
        self.now_us = START_US
        self.came: set[int] = set()
        self.sounded: list[int] = []
        self.lost = 0
        self.position: int | None = None  # the next number
        self.refused: set[int] = set()

    def note(self, events) -> None:
        gap = 0
        for event in events:
            if isinstance(event, Gap):
                assert event.lost_blocks > 0
                gap += event.lost_blocks
            else:
                assert isinstance(event, Block)
                if self.position is None:
                    assert gap == 0
                else:
                    assert event.sequence == self.position + gap
                self.lost, gap = self.lost + gap, 0
                self.sounded.append(event.sequence)
                self.position = event.sequence + 1
        assert gap == 0

    @rule(
        ahead=st.integers(-6, 12), jump=st.sampled_from([0, 0, 0, 40]), frames=st.integers(0, 900)
    )
    def arrives(self, ahead, jump, frames):
        sequence = max(0, (self.position or 0) + ahead + jump)
        was_heard, waits = sequence in self.sounded, sequence in self.heard.order.held
        events = self.heard.arrive(block(sequence=sequence, frames=frames))
        if events == [Reason.LATE_BLOCK]:
            assert self.position is not None
            assert sequence < self.position
            assert not was_heard
            self.refused.add(sequence)
        elif events == ["repeated"]:
            assert was_heard or waits or self.is_forgotten(sequence)
        else:
            assert not was_heard
            assert not waits
            self.came.add(sequence)
            self.note(events)

    def is_forgotten(self, sequence) -> bool:
        """Whether a gap is so old that a late block of it passes for a repeated one."""
        gaps = self.heard.order.cursor.gaps
        return len(gaps) == 8 and sequence < gaps[0][0]

    @precondition(lambda self: self.heard.order.due_us is not None)
    @rule(part=st.sampled_from([-1, 0, 1, 5_000_000]))
    def time_passes(self, part):
        due_us = self.heard.order.due_us
        first = min(self.heard.order.held)
        events = self.heard.expire(due_us + part)
        if part < 0:
            assert events == []
        else:
            assert first in [one.sequence for one in events if isinstance(one, Block)]
            still = self.heard.order.due_us
            assert still is None or still > due_us + part
        self.note(events)

    @rule()
    def is_repeated(self):
        assert self.heard.expire(0) == []

    @invariant()
    def books_balance(self):
        held = self.heard.order.held
        assert self.sounded == sorted(set(self.sounded))
        assert self.came == set(self.sounded) | held.keys()
        assert not self.refused & set(self.sounded)
        if self.sounded:
            between = self.sounded[-1] - self.sounded[0] + 1
            assert between == len(self.sounded) + self.lost
        assert len(held) <= RULES.max_held_blocks
        assert sum(len(one.payload) for one in held.values()) <= RULES.max_held_bytes
        assert all(self.position is None or sequence > self.position for sequence in held)
        assert len(self.heard.order.cursor.gaps) <= 8

    def teardown(self):
        *events, end = [*self.heard.close(), None][:-1] or [None]
        if end is not None:
            assert end == SessionEnd()
            self.note(events)
        assert set(self.sounded) == self.came
        assert self.heard.close() == []


TestAnyOrder = Model.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_order_within_the_bounds_is_the_order(data):
    """Of a whole stream, shuffled and with repetitions, each block is heard once and in turn."""
    blocks = [block(sequence=n, last=n == 39) for n in range(40)]
    order = data.draw(st.permutations(range(40)))
    again = data.draw(st.lists(st.sampled_from(range(40)), max_size=10))
    heard = Heard(OrderRules())
    events = [event for n in [*order, *again] for event in heard.arrive(blocks[n])]
    assert short(one for one in events if one != "repeated") == [*range(40), "end"]
    assert events.count("repeated") == len(again)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Cursor)])
def test_a_cursor_is_kept_whole(field):
    cursor = Cursor(session=2**62, next_sequence=2**62, ended=True, end_us=2**57, ahead_us=1,
                    flooding=True, held_blocks=2, held_bytes=3,
                    gaps=[(0, 4), (2**61, 2**62)])  # fmt: skip
    content = StreamState(cursor=cursor).to_bytes()
    assert getattr(StreamState.from_bytes(content).cursor, field) == getattr(cursor, field)
    assert StreamState.from_bytes(content).to_bytes() == content
