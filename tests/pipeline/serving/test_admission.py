"""What is accepted, what is turned down and when it may come again."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.serving.admission import Admission
from pipeline.serving.answers import Limits, Problem, RefusedError


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def refused(admission: Admission) -> RefusedError:
    with pytest.raises(RefusedError) as caught, admission.enter():
        pass
    return caught.value


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5))
def test_never_more_than_the_limit(comings, limit):
    admission = Admission(Limits(in_work=limit))
    inside: list[ExitStack] = []
    for comes in comings:
        if comes and len(inside) == limit:
            assert refused(admission).problem is Problem.BUSY
        elif comes:
            inside.append(ExitStack())
            inside[-1].enter_context(admission.enter())
        elif inside:
            inside.pop(0).close()
        assert admission.in_work == len(inside)


def test_what_fails_or_is_cancelled_leaves_its_place():
    admission = Admission(Limits(in_work=1))
    for error in (ZeroDivisionError, asyncio.CancelledError):
        with pytest.raises(error), admission.enter():
            raise error
        assert admission.in_work == 0


@pytest.mark.parametrize(
    ("answers", "seconds"),
    [([], 1), ([0.1, 0.2], 1), ([2.0, 4.0], 3), ([2.1], 3), ([100.0, *[2.0] * 32], 2)],
)
def test_when_a_place_will_be_free(answers, seconds):
    clock = Clock()
    admission = Admission(Limits(in_work=1), clock=clock)
    for taken in answers:
        with admission.enter():
            clock.now += taken
    with admission.enter():
        error = refused(admission)
    assert (error.problem, error.retry_after_seconds) == (Problem.BUSY, seconds)


def test_short_memory_turns_all_down_until_it_is_free_again():
    is_over = True
    admission = Admission(Limits(), lambda: is_over)
    error = refused(admission)
    assert error.problem is Problem.OVERLOADED
    assert error.retry_after_seconds == 1
    is_over = False
    with admission.enter():
        assert admission.in_work == 1


def test_the_end_waits_for_what_was_accepted():
    async def shut_down() -> None:
        admission = Admission(Limits(in_work=2))
        assert await admission.wait_until_idle(1)
        stack = ExitStack()
        stack.enter_context(admission.enter())
        admission.drain()
        assert admission.is_draining
        error = refused(admission)
        assert error.problem is Problem.SHUTTING_DOWN
        assert error.retry_after_seconds == 5
        assert not await admission.wait_until_idle(0.01)
        asyncio.get_running_loop().call_later(0.05, stack.close)
        assert await admission.wait_until_idle(10)
        assert admission.in_work == 0

    asyncio.run(shut_down())
