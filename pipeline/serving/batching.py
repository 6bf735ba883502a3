"""Windows of several requests to batches for the model, by size and by time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class MicroBatcher(Generic[In, Out]):
    """One loop that computes what several callers bring, in the order in which it came.

    Parameters
    ----------
    compute : callable
        Takes a batch; gives as many results, in its order. What it raises, every caller of the
        batch gets.
    max_batch : int
        Items of a batch.
    max_wait_seconds : float
        That a first item waits for others.
    max_waiting : int
        Items that wait at most; then callers do.
    told : callable
        Is told the size of each batch.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[In]], Awaitable[Sequence[Out]]],
        *,
        max_batch: int,
        max_wait_seconds: float,
        max_waiting: int,
        told: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._compute, self._told = compute, told
        self._max_batch, self._max_wait_seconds = max_batch, max_wait_seconds
        self._waiting: asyncio.Queue[tuple[In, asyncio.Future[Out]]] = asyncio.Queue(max_waiting)

    @property
    def waiting(self) -> int:
        """Items that are in no batch yet."""
        return self._waiting.qsize()

    async def add(self, item: In) -> asyncio.Future[Out]:
        """Add an item as soon as there is room; a result that is cancelled is not computed."""
        future: asyncio.Future[Out] = asyncio.get_running_loop().create_future()
        await self._waiting.put((item, future))
        return future

    async def run(self) -> None:
        """Compute batches until cancelled."""
        while True:
            batch = await self._next_batch()
            if batch:
                await self._answer(batch)

    async def _next_batch(self) -> list[tuple[In, asyncio.Future[Out]]]:
        """What is still wanted of the next items."""
        loop = asyncio.get_running_loop()
        batch = [await self._waiting.get()]
        until = loop.time() + self._max_wait_seconds
        while len(batch) < self._max_batch:
            if self._waiting.empty():
                try:
                    left = until - loop.time()
                    batch.append(await asyncio.wait_for(self._waiting.get(), left))
                except asyncio.TimeoutError:
                    break
            else:
                batch.append(self._waiting.get_nowait())
        return [(item, future) for item, future in batch if not future.done()]

    async def _answer(self, batch: list[tuple[In, asyncio.Future[Out]]]) -> None:
        self._told(len(batch))
        try:
            results = await self._compute([item for item, _ in batch])
            answered = list(zip(batch, results, strict=True))
        except Exception as error:  # every caller gets it
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # is looked at, even if its caller has left
            return
        for (_, future), result in answered:
            if not future.done():
                future.set_result(result)
