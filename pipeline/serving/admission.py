"""How many requests are in work at once: beyond that, and when in trouble, none is accepted."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.serving.answers import Limits, Problem, RefusedError

RESTART_SECONDS = 5
"""After which a client may look whether the server is back."""
_ANSWERS = 32  # whose mean says how long one takes


class Admission:
    """A bounded number of accepted requests; used on the event loop alone.

    Parameters
    ----------
    limits : Limits
        ``in_work`` requests at once.
    is_over : callable
        Whether memory is short: see pipeline.serving.memory.MemoryWatch.
    clock : callable
        Seconds from any beginning.
    """

    def __init__(
        self,
        limits: Limits,
        is_over: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limits.in_work
        self._is_over = is_over
        self._clock = clock
        self._in_work = 0
        self._is_draining = False
        self._seconds: deque[float] = deque(maxlen=_ANSWERS)
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_work(self) -> int:
        """Requests that are accepted and not answered."""
        return self._in_work

    @property
    def is_draining(self) -> bool:
        """Whether nothing is accepted any more."""
        return self._is_draining

    def retry_after_seconds(self) -> int:
        """When it may be tried again: at least 1.

        By Little's law what is in work now is answered in the mean time that one answer takes.
        """
        mean = sum(self._seconds) / len(self._seconds) if self._seconds else 0.0
        return max(1, math.ceil(mean))

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Have a request in work for as long as the context lasts.

        Raises
        ------
        RefusedError
            SHUTTING_DOWN, OVERLOADED or BUSY.
        """
        self._check()
        self._in_work += 1
        self._idle.clear()
        started = self._clock()
        try:
            yield
        finally:
            self._seconds.append(self._clock() - started)
            self._in_work -= 1
            if self._in_work == 0:
                self._idle.set()

    def drain(self) -> None:
        """Accept nothing from now on; what is in work goes on."""
        self._is_draining = True

    async def wait_until_idle(self, timeout_seconds: float) -> bool:
        """Wait until nothing is in work.

        Parameters
        ----------
        timeout_seconds : float

        Returns
        -------
        bool
            False if something still was when the time was over.
        """
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_seconds)
        except asyncio.TimeoutError:
            return False
        return True

    def _check(self) -> None:
        if self._is_draining:
            message = "the server is about to end; ask it again when it is back"
            raise RefusedError(Problem.SHUTTING_DOWN, message, RESTART_SECONDS)
        if self._is_over():
            message = "the server is short of memory; try again later"
            raise RefusedError(Problem.OVERLOADED, message, self.retry_after_seconds())
        if self._in_work >= self._limit:
            seconds = self.retry_after_seconds()
            message = f"as much is in work as may be; try again in {seconds} s"
            raise RefusedError(Problem.BUSY, message, seconds)
