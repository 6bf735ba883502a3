"""What is asked for several times at once is done once, for as long as somebody waits."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pipeline.serving.answers import Progress, Step, untold
from pipeline.serving.flights import Flights, Told

PATIENCE_SECONDS = 30.0


class Work:
    """Counts how often it is begun, cancelled and done; ends when told to."""

    def __init__(self, result: str | Exception = "done") -> None:
        self._result = result
        self.begun = self.cancelled = 0
        self.tell: Told
        self.go = asyncio.Event()

    async def __call__(self, tell: Told) -> str:
        self.begun += 1
        self.tell = tell
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), PATIENCE_SECONDS))


async def breathe() -> None:
    """Let every other task come to where it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


async def joined(
    flights: Flights[str], work: Work, told: Told = untold, key: str = "a"
) -> asyncio.Task[str]:
    waiting = asyncio.ensure_future(flights.join(key, work, told))
    await breathe()
    return waiting


def test_the_same_key_is_worked_on_once():
    async def story() -> None:
        flights, work = Flights[str](), Work()
        waiting = [await joined(flights, work) for _ in range(3)]
        work.go.set()
        assert await asyncio.gather(*waiting) == ["done"] * 3
        assert work.begun == 1

    run(story)


def test_what_is_done_is_begun_anew():
    async def story() -> None:
        flights, work = Flights[str](), Work()
        work.go.set()
        for times in (1, 2):
            assert await flights.join("a", work, untold) == "done"
            assert work.begun == times

    run(story)


def test_other_keys_are_other_work():
    async def story() -> None:
        flights, one, other = Flights[str](), Work("one"), Work("other")
        waiting = [
            await joined(flights, one, key="a"),
            await joined(flights, other, key="b"),
        ]
        one.go.set()
        other.go.set()
        assert await asyncio.gather(*waiting) == ["one", "other"]

    run(story)


def test_all_hear_of_the_progress_and_who_comes_late_of_the_latest():
    async def story() -> None:
        flights, work = Flights[str](), Work()
        early: list[Progress] = []
        late: list[Progress] = []
        steps = [Progress(Step.WAITING), Progress(Step.DECODING, 1.5), Progress(Step.LABELLING)]
        waiting = [await joined(flights, work, early.append)]
        work.tell(steps[0])
        work.tell(steps[1])
        waiting.append(await joined(flights, work, late.append))
        work.tell(steps[2])
        work.go.set()
        await asyncio.gather(*waiting)
        assert early == steps
        assert late == steps[1:]

    run(story)


def test_who_has_left_hears_nothing_more():
    async def story() -> None:
        flights, work = Flights[str](), Work()
        heard: list[Progress] = []
        leaver = await joined(flights, work, heard.append)
        stayer = await joined(flights, work)
        leaver.cancel()
        await breathe()
        work.tell(Progress(Step.LABELLING))
        assert heard == []
        work.go.set()
        assert await stayer == "done"

    run(story)


def test_the_work_goes_on_while_one_waits_and_ends_with_the_last():
    async def story() -> None:
        flights, work = Flights[str](), Work()
        waiting = [await joined(flights, work) for _ in range(3)]
        for left, leaver in zip((2, 1, 0), waiting, strict=True):
            leaver.cancel()
            await breathe()
            assert leaver.cancelled()
            assert work.cancelled == (left == 0)
        another = await joined(flights, work)  # does not get what has been ended
        assert work.begun == 2
        work.go.set()
        assert await another == "done"

    run(story)


def test_the_result_reaches_who_stays():
    async def story() -> None:
        flights, work = Flights[str](), Work()
        leaver, stayer = await joined(flights, work), await joined(flights, work)
        leaver.cancel()
        work.go.set()
        assert await stayer == "done"
        assert (work.begun, work.cancelled) == (1, 0)

    run(story)


def test_an_error_reaches_all_and_is_not_kept():
    async def story() -> None:
        flights, fails, works = Flights[str](), Work(ZeroDivisionError("no")), Work()
        waiting = [await joined(flights, fails) for _ in range(3)]
        fails.go.set()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in outcomes] == [ZeroDivisionError] * 3
        works.go.set()
        assert await flights.join("a", works, untold) == "done"

    run(story)


def test_nobody_complains_of_an_error_that_came_when_all_had_left(caplog):
    async def fails_when_cancelled(tell: Told) -> str:
        try:
            await asyncio.sleep(PATIENCE_SECONDS)
        except asyncio.CancelledError:
            raise ZeroDivisionError from None
        return "done"

    async def story() -> None:
        flights = Flights[str]()
        waiting = asyncio.ensure_future(flights.join("a", fails_when_cancelled, untold))
        await breathe()
        waiting.cancel()
        await breathe()
        del waiting
        gc.collect()

    run(story)
    assert caplog.text == ""


def test_a_listener_that_fails_is_no_longer_one():
    def fails(progress: Progress) -> None:
        raise ZeroDivisionError

    async def story() -> None:
        flights, work = Flights[str](), Work()
        first = await joined(flights, work)
        work.tell(Progress(Step.WAITING))
        with pytest.raises(ZeroDivisionError):
            await flights.join("a", work, fails)
        work.tell(Progress(Step.LABELLING))
        first.cancel()
        await breathe()
        assert work.cancelled == 1  # nobody else counts as waiting

    run(story)
