"""The same work asked for several times at once is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from pipeline.serving.answers import Progress

Out = TypeVar("Out")
Told = Callable[[Progress], None]


class _Flight(Generic[Out]):
    def __init__(self) -> None:
        self.task: asyncio.Task[Out]
        self.listeners: list[Told] = []
        self.latest: Progress | None = None

    def tell(self, progress: Progress) -> None:
        self.latest = progress
        for listener in self.listeners:
            listener(progress)


class Flights(Generic[Out]):
    """Work that goes on, by what it is about."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[Out]] = {}

    async def join(self, key: Hashable, work: Callable[[Told], Awaitable[Out]], told: Told) -> Out:
        """The result of the work for ``key``, begun now or by somebody before.

        It is ended when the last one who waits for it is cancelled.

        Parameters
        ----------
        key : hashable
        work : callable
            Begins the work; takes whom to tell of its progress.
        told : callable
            Is told of the progress from now on.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            flight.task = asyncio.ensure_future(work(flight.tell))
            flight.task.add_done_callback(lambda _: self._land(key, flight))
        flight.listeners.append(told)
        try:
            if flight.latest is not None:
                told(flight.latest)
            return await asyncio.shield(flight.task)
        finally:
            flight.listeners.remove(told)
            if not flight.listeners and not flight.task.done():
                self._land(key, flight)
                flight.task.cancel()

    def _land(self, key: Hashable, flight: _Flight[Out]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if flight.task.done() and not flight.task.cancelled():
            flight.task.exception()  # is looked at, even if nobody waited to the end
