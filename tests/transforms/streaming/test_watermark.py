"""How far time has come: by hand, and that it never goes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transforms.streaming.watermark import Watermark


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_before_the_first_block_nothing_is_known():
    clock = Clock()
    watermark = Watermark(10, clock)
    assert watermark.now_us() is None
    clock.now_s = 100
    assert watermark.now_us() is None


def test_the_slowest_stream_counts():
    watermark = Watermark(10, Clock())
    watermark.saw("a", 5_000_000)
    watermark.saw("b", 3_000_000)
    assert watermark.now_us() == 3_000_000
    watermark.saw("b", 9_000_000)
    assert watermark.now_us() == 5_000_000
    watermark.saw("a", 4_000_000)  # late
    assert watermark.now_us() == 5_000_000


def test_an_idle_stream_does_not_count():
    clock = Clock()
    watermark = Watermark(10, clock)
    watermark.saw("a", 1_000_000)
    clock.now_s = 9
    watermark.saw("b", 9_000_000)
    assert watermark.now_us() == 1_000_000
    clock.now_s = 10
    assert watermark.now_us() == 9_000_000


def test_a_stream_of_which_more_is_there_is_not_idle():
    clock = Clock()
    watermark = Watermark(10, clock)
    watermark.saw("a", 1_000_000)
    clock.now_s = 50
    assert watermark.now_us({"a"}) == 1_000_000
    clock.now_s = 59.9
    assert watermark.now_us() == 1_000_000


def test_a_stream_that_has_told_no_time_holds_it():
    watermark = Watermark(10, Clock())
    watermark.saw("a", 1_000_000)
    assert watermark.now_us({"b"}) is None
    assert watermark.now_us() == 1_000_000
    watermark.saw("a", 2_000_000)
    assert watermark.now_us({"b"}) == 1_000_000


def test_when_all_are_idle_it_goes_on_by_the_clock():
    clock = Clock()
    watermark = Watermark(10, clock)
    watermark.saw("a", 1_000_000)
    watermark.saw("b", 2_000_000)
    clock.now_s = 10
    assert watermark.now_us() == 2_000_000
    clock.now_s = 10.5
    assert watermark.now_us() == 2_500_000
    clock.now_s = 13
    assert watermark.now_us() == 5_000_000
    watermark.saw("a", 4_000_000)  # again there, behind its time
    assert watermark.now_us() == 5_000_000
    watermark.saw("a", 6_000_000)
    assert watermark.now_us() == 6_000_000


def test_a_stream_that_ended_is_idle_at_once():
    clock = Clock()
    watermark = Watermark(10, clock)
    watermark.saw("a", 1_000_000, last=True)
    watermark.saw("b", 7_000_000)
    assert watermark.now_us() == 7_000_000


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.integers(0, 10**8),
            st.booleans(),
            st.floats(0, 20),
            st.frozensets(st.sampled_from("abc")),
        )
    )
)
def test_it_never_goes_back(events):
    clock = Clock()
    watermark, before = Watermark(10, clock), None
    for stream_id, event_time_us, last, wait_s, pending in events:
        watermark.saw(stream_id, event_time_us, last=last)
        clock.now_s += wait_s
        now = watermark.now_us(pending)
        assert before is None or (now is not None and now >= before)
        before = now
