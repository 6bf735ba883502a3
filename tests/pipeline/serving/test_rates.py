"""Token buckets, against a bucket that is kept as one would draw it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.serving.rates import RateLimiter, client_of


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@given(
    per_second=st.sampled_from([0.1, 0.3, 1.0, 2.0, 7.0]),
    burst=st.integers(1, 5),
    pauses=st.lists(st.sampled_from([0.0, 0.01, 0.1, 1 / 3, 1.0, 2.5, 30.0]), max_size=40),
)
def test_as_a_bucket_that_is_filled_drop_by_drop(per_second, burst, pauses):
    clock = Clock()
    limiter = RateLimiter(per_second, burst, clock=clock)
    tokens = float(burst)
    for pause in pauses:
        clock.now += pause
        tokens = min(burst, tokens + pause * per_second)
        allowed = limiter.take("a") == 0
        if abs(tokens - 1) > 1e-5:  # else rounding decides
            assert allowed == (tokens >= 1)
        tokens -= allowed


@given(per_second=st.floats(0.01, 100), burst=st.integers(1, 20), start=st.floats(0, 1e6))
def test_after_the_told_wait_there_is_a_token_and_a_second_before_there_is_none(
    per_second, burst, start
):
    clock = Clock()
    clock.now = start
    limiter = RateLimiter(per_second, burst, clock=clock)
    assert [limiter.take("a") for _ in range(burst)] == [0] * burst
    wait = limiter.take("a")
    assert wait >= 1
    assert abs(wait - 1 / per_second) < 1 + 1e-5
    clock.now = start + wait - 1
    if wait > 1 and abs(1 / per_second - round(1 / per_second)) > 1e-5:  # else rounding decides
        assert limiter.take("a") > 0
    clock.now = start + wait
    assert limiter.take("a") == 0


def test_clients_do_not_share_a_bucket():
    limiter = RateLimiter(1, 1, clock=Clock())
    assert [limiter.take(client) for client in "abab"] == [0, 0, 1, 1]


def test_only_so_many_clients_are_remembered_and_those_that_ask_stay():
    limiter = RateLimiter(1, 1, most_clients=3, clock=Clock())
    for client in "abc":
        limiter.take(client)
    assert limiter.take("a") == 1  # asked again: now b is the oldest
    limiter.take("d")
    assert len(limiter) == 3
    assert [limiter.take(client) for client in "acd"] == [1, 1, 1]
    assert limiter.take("b") == 0
    for client in range(10_000):
        limiter.take(str(client))
    assert len(limiter) == 3


@pytest.mark.parametrize(("per_second", "burst"), [(0, 1), (-1, 1), (1, 0)])
def test_a_limiter_that_lets_nobody_in_is_a_mistake(per_second, burst):
    with pytest.raises(ValueError, match="lets nobody in"):
        RateLimiter(per_second, burst)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("10.0.0.1", 5), ("10.0.0.1", 6), True),
        (("10.0.0.1", 5), ("10.0.0.2", 5), False),
        (("::ffff:10.0.0.1", 5), ("10.0.0.1", 5), True),
        (("2001:db8:1:2::1", 5), ("2001:db8:1:2:ffff::9", 5), True),
        (("2001:db8:1:2::1", 5), ("2001:db8:1:3::1", 5), False),
        (("testclient", 5), ("testclient", 6), True),
        (None, None, True),
    ],
)
def test_who_is_one_client(one, other, same):
    assert (client_of(one) == client_of(other)) is same
