"""How long a request may take, from its acceptance to its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import Request
from starlette.types import Message

from pipeline.serving.answers import Problem, RefusedError

Out = TypeVar("Out")


class Deadline:
    """A time from now, on the running event loop.

    Parameters
    ----------
    seconds : float
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + seconds

    async def keep(self, work: Awaitable[Out]) -> Out:
        """The result of ``work``, which is cancelled when the time has come.

        Raises
        ------
        RefusedError
            OUT_OF_TIME.
        """
        try:
            return await asyncio.wait_for(work, self._until - self._loop.time())
        except asyncio.TimeoutError as error:
            raise RefusedError(
                Problem.OUT_OF_TIME,
                f"not done within {self._seconds:g} s, which is the limit here; try again when "
                "less is in work, or label it by python -m pipeline.main",
            ) from error

    def of_body(self, request: Request) -> Request:
        """The same request, whose body must have come by then: one that trickles holds a place."""

        async def receive() -> Message:
            return await self.keep(request.receive())

        return Request(request.scope, receive)
