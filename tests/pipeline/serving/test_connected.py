"""Work that ends with its result, its error, or when its client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from pipeline.serving.connected import while_connected

PATIENCE_SECONDS = 30.0


class Client:
    """One that has sent its request, and may leave; ``late`` messages come before."""

    def __init__(self, *late: Message) -> None:
        self.leave = asyncio.Event()
        self.is_heard = 0  # how many wait for its next message
        self._late = list(late)

    async def receive(self) -> Message:
        if self._late:
            return self._late.pop(0)
        self.is_heard += 1
        try:
            await self.leave.wait()
        finally:
            self.is_heard -= 1
        return {"type": "http.disconnect"}

    @property
    def request(self) -> Request:
        return Request({"type": "http", "method": "POST", "headers": []}, self.receive)


class Work:
    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.is_cancelled = False
        self.is_over = False

    async def run(self) -> str:
        try:
            await self.go.wait()
            return "done"
        except asyncio.CancelledError:
            self.is_cancelled = True
            await asyncio.sleep(0.01)  # it takes a moment to clean up
            raise
        finally:
            self.is_over = True


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def alone() -> None:
        before = asyncio.all_tasks()
        await story()
        assert asyncio.all_tasks() == before, "tasks are left behind"

    asyncio.run(asyncio.wait_for(alone(), PATIENCE_SECONDS))


async def breathe() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_the_result():
    async def story() -> None:
        client, work = Client(), Work()
        asyncio.get_running_loop().call_later(0.01, work.go.set)
        assert await while_connected(client.request, work.run()) == "done"
        assert client.is_heard == 0

    run(story)


def test_the_error():
    async def fails() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError("no")

    async def story() -> None:
        client = Client()
        with pytest.raises(ZeroDivisionError, match="no"):
            await while_connected(client.request, fails())
        assert client.is_heard == 0

    run(story)


@pytest.mark.parametrize("late", [(), ({"type": "http.request", "body": b"", "more_body": False},)])
def test_a_client_that_leaves_ends_its_work(late):
    async def story() -> None:
        client, work = Client(*late), Work()
        asyncio.get_running_loop().call_later(0.01, client.leave.set)
        with pytest.raises(ClientDisconnect):
            await while_connected(client.request, work.run())
        assert work.is_cancelled
        assert work.is_over

    run(story)


def test_a_client_that_stays_ends_nothing():
    late = {"type": "http.request", "body": b"more", "more_body": False}

    async def story() -> None:
        client, work = Client(late), Work()
        answer = asyncio.ensure_future(while_connected(client.request, work.run()))
        await breathe()
        assert not answer.done()
        work.go.set()
        assert await answer == "done"

    run(story)


def test_a_result_that_is_there_when_the_client_leaves_is_the_result():
    async def story() -> None:
        client, work = Client(), Work()
        answer = asyncio.ensure_future(while_connected(client.request, work.run()))
        await breathe()
        work.go.set()
        client.leave.set()
        assert await answer == "done"

    run(story)


def test_who_is_cancelled_ends_the_work():
    async def story() -> None:
        client, work = Client(), Work()
        answer = asyncio.ensure_future(while_connected(client.request, work.run()))
        await breathe()
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer
        assert work.is_over
        assert client.is_heard == 0

    run(story)
