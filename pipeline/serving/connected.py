"""Work that ends when the client leaves that asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

Out = TypeVar("Out")


async def while_connected(request: Request, work: Coroutine[Any, Any, Out]) -> Out:
    """The result of ``work``, which is cancelled if the client of ``request`` leaves.

    Parameters
    ----------
    request : Request
        Whose body has been read to its end.
    work : coroutine

    Raises
    ------
    ClientDisconnect
        If the client has left.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
