"""Watches what the server and its workers take of the memory, so that it can shed load in time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from pipeline.process_memory import tree_bytes
from pipeline.resources import available_bytes

_SHARE = 0.8  # of what is free at the start: what is in work still grows
_AGAIN = 0.9  # of the limit: under it the memory is short no longer

_log = logging.getLogger(__name__)


def default_limit_bytes(used_bytes: int | None = None, free_bytes: int | None = None) -> int | None:
    """What the server may take: what it takes now and most of what is free; None: nobody knows.

    Parameters
    ----------
    used_bytes, free_bytes : int, optional
        As the machine tells when None.
    """
    used = tree_bytes() if used_bytes is None else used_bytes
    free = available_bytes() if free_bytes is None else free_bytes
    return None if used is None or free is None else used + int(_SHARE * free)


class MemoryWatch:
    """Says whether memory is short; use it as an asynchronous context.

    A look takes a thread about 30 ms with 0.5 to 0.9 GiB resident, nearly all of it in the kernel,
    which walks all pages.

    Parameters
    ----------
    limit_bytes : int or None
        None: it never is.
    read : callable
        Bytes in use now, or None where nobody tells; is called in a thread.
    seconds : float
        Between two looks.

    Attributes
    ----------
    over : bool
        True from above the limit until it is at 90 % or under.
    used_bytes : int or None
        At the last look.
    """

    def __init__(
        self,
        limit_bytes: int | None,
        read: Callable[[], int | None] = tree_bytes,
        seconds: float = 2.0,
    ) -> None:
        self.limit_bytes = limit_bytes
        self.over = False
        self.used_bytes: int | None = None
        self._read = read
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None

    def is_over(self) -> bool:
        """Whether memory is short, for whoever wants a callable."""
        return self.over

    def note(self, used_bytes: int | None) -> None:
        """Judge one look."""
        self.used_bytes = used_bytes
        if self.limit_bytes is None or used_bytes is None:
            self.over = False
            return
        was_over = self.over
        bound = self.limit_bytes * (_AGAIN if was_over else 1)
        self.over = used_bytes > bound
        if self.over != was_over:
            _log.warning(
                "memory is %s: %d of %d MiB are taken",
                "short" if self.over else "free again",
                used_bytes >> 20,
                self.limit_bytes >> 20,
            )

    async def __aenter__(self) -> MemoryWatch:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        while True:
            try:
                self.note(await asyncio.to_thread(self._read))
            except Exception:  # a missed look is no reason to look no more
                _log.exception("the memory in use cannot be read")
            await asyncio.sleep(self._seconds)
