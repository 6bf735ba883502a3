"""Batches by size and by time, in order, and who gets which outcome."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.serving.batching import MicroBatcher

PATIENCE_SECONDS = 30.0
FOR_EVER_SECONDS = 1e6

Compute = Callable[[Sequence[int]], Awaitable[Sequence[int]]]


class Model:
    """Squares numbers, and keeps the batches that it was given."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, numbers: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(numbers))
        await self.go.wait()
        return [number**2 for number in numbers]


def batcher(
    compute: Compute, *, size: int = 4, wait_seconds: float = 0.01, room: int = 100, **more: Any
) -> MicroBatcher[int, int]:
    return MicroBatcher(
        compute, max_batch=size, max_wait_seconds=wait_seconds, max_waiting=room, **more
    )


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), PATIENCE_SECONDS))


class Running:
    """The loop of a batcher, for as long as a context lasts."""

    def __init__(self, of: MicroBatcher[int, int]) -> None:
        self._batcher = of

    async def __aenter__(self) -> asyncio.Task[None]:
        self._task = asyncio.ensure_future(self._batcher.run())
        return self._task

    async def __aexit__(self, *_: object) -> None:
        assert not self._task.done(), "the loop must survive whatever a batch does"
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def breathe() -> None:
    """Let every other task come to where it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


@settings(deadline=None, max_examples=40)
@given(numbers=st.lists(st.integers(-9, 9), max_size=30), size=st.integers(1, 7))
def test_what_waits_is_cut_to_batches_in_order(numbers, size):
    sizes: list[int] = []

    async def story() -> None:
        model = Model()
        batches = batcher(model, size=size, told=sizes.append)
        futures = [await batches.add(number) for number in numbers]
        assert batches.waiting == len(numbers)
        async with Running(batches):
            assert await asyncio.gather(*futures) == [number**2 for number in numbers]
        cut = [numbers[at : at + size] for at in range(0, len(numbers), size)]
        assert model.batches == cut
        assert sizes == [len(batch) for batch in cut]
        assert batches.waiting == 0

    run(story)


def test_a_full_batch_waits_for_nobody():
    async def story() -> None:
        model = Model()
        batches = batcher(model, size=3, wait_seconds=FOR_EVER_SECONDS)
        async with Running(batches):
            futures = [await batches.add(number) for number in range(3)]
            assert await asyncio.gather(*futures) == [0, 1, 4]

    run(story)


def test_the_first_item_waits_for_others():
    async def story() -> None:
        model = Model()
        batches = batcher(model, size=3, wait_seconds=FOR_EVER_SECONDS)
        async with Running(batches):
            first = await batches.add(0)
            await breathe()
            assert not first.done()
            others = [await batches.add(number) for number in (1, 2)]
            assert await asyncio.gather(first, *others) == [0, 1, 4]
        assert model.batches == [[0, 1, 2]]

    run(story)


def test_time_is_counted_from_the_first_item(monkeypatch):
    """Items that come one after the other do not hold up the first one for ever."""

    async def story() -> None:
        now = 0.0
        loop = asyncio.get_running_loop()
        real = loop.time()
        monkeypatch.setattr(loop, "time", lambda: real + now)
        model = Model()
        batches = batcher(model, size=100, wait_seconds=1.0)
        async with Running(batches):
            futures = []
            for number in range(5):
                futures.append(await batches.add(number))
                await breathe()
                now += 0.4
                await breathe()
            now += 1.0
            await asyncio.wait(futures)
        monkeypatch.undo()
        assert model.batches == [[0, 1, 2], [3, 4]]

    run(story)


def test_cancelled_items_are_not_computed():
    async def story() -> None:
        model = Model()
        told: list[int] = []
        batches = batcher(model, size=4, told=told.append)
        futures = [await batches.add(number) for number in range(8)]
        for number in (1, 2, 4, 5, 6, 7):
            futures[number].cancel()
        async with Running(batches):
            assert await asyncio.gather(futures[0], futures[3]) == [0, 9]
            await until(lambda: batches.waiting == 0)
            assert await (await batches.add(5)) == 25
        assert model.batches == [[0, 3], [5]]  # and none of the four that all are cancelled
        assert told == [2, 1]

    run(story)


def test_one_that_is_cancelled_while_it_is_computed_harms_no_other():
    async def story() -> None:
        model = Model()
        model.go.clear()
        batches = batcher(model, size=2)
        futures = [await batches.add(number) for number in (1, 2)]
        async with Running(batches):
            await until(lambda: model.batches == [[1, 2]])
            futures[0].cancel()
            model.go.set()
            assert await futures[1] == 4

    run(story)


@pytest.mark.parametrize("short", [False, True])
def test_an_error_reaches_every_caller_of_its_batch_and_no_other(short):
    """``short``: as does an answer that is not one result per item."""

    async def fails_at_one(numbers: Sequence[int]) -> Sequence[int]:
        if 1 not in numbers:
            return numbers
        if short:
            return numbers[1:]
        raise ZeroDivisionError(f"of {numbers}")

    async def story() -> None:
        batches = batcher(fails_at_one, size=2)
        futures = [await batches.add(number) for number in range(4)]
        async with Running(batches):
            outcomes = await asyncio.gather(*futures, return_exceptions=True)
        kind = ValueError if short else ZeroDivisionError
        assert [type(one) for one in outcomes[:2]] == [kind, kind]
        assert outcomes[2:] == [2, 3]

    run(story)


def test_nobody_complains_of_an_error_whose_caller_has_left(caplog):
    async def fails(numbers: Sequence[int]) -> Sequence[int]:
        raise ZeroDivisionError

    async def story() -> None:
        batches = batcher(fails, size=1)
        async with Running(batches):
            future = await batches.add(1)
            await asyncio.wait([future])
            del future
            gc.collect()

    run(story)
    assert caplog.text == ""


def test_who_adds_waits_while_there_is_no_room():
    async def story() -> None:
        model = Model()
        model.go.clear()
        batches = batcher(model, size=2, room=3)
        futures: list[asyncio.Future[int]] = []

        async def add_all() -> None:
            for number in range(10):
                futures.append(await batches.add(number))

        async with Running(batches):
            adding = asyncio.ensure_future(add_all())
            await until(lambda: len(futures) == 5)  # two are computed, three wait
            await breathe()
            assert (len(futures), batches.waiting) == (5, 3)
            model.go.set()
            await adding
            assert await asyncio.gather(*futures) == [number**2 for number in range(10)]

    run(story)


def test_who_leaves_while_waiting_for_room_adds_nothing():
    async def story() -> None:
        model = Model()
        batches = batcher(model, size=2, room=1)
        await batches.add(1)
        adding = asyncio.ensure_future(batches.add(2))
        await asyncio.sleep(0)
        adding.cancel()
        await asyncio.wait([adding])
        async with Running(batches):
            assert await (await batches.add(3)) == 9
        assert model.batches == [[1, 3]]

    run(story)
