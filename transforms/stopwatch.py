"""Where the time goes inside a stage: seconds by part, for the profile of a run."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

Timed: TypeAlias = Callable[[str], AbstractContextManager[Any]]
"""``with timed("resample"): ...`` counts the seconds of a part; pure functions take one."""


def untimed(part: str) -> AbstractContextManager[Any]:
    """Count nothing."""
    return nullcontext()


class StopWatch:
    """Adds up the seconds of each part; a :data:`Timed`. Threads may share it.

    Parameters
    ----------
    clock : callable
        Seconds; a function of a module, for it travels to workers by name.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Count the seconds inside the ``with`` block, also those of a block that fails."""
        started = self._clock()
        try:
            yield
        finally:
            self.add(part, self._clock() - started)

    def add(self, part: str, seconds: float) -> None:
        """Count seconds that were measured elsewhere."""
        with self._lock:
            self._seconds[part] += seconds

    def update(self, seconds: Mapping[str, float]) -> None:
        """Add several."""
        for part, value in seconds.items():
            self.add(part, value)

    def take(self) -> dict[str, float]:
        """Seconds by part since the last call."""
        with self._lock:
            taken, self._seconds = self._seconds, defaultdict(float)
        return dict(taken)

    def __reduce__(self) -> tuple[type[StopWatch], tuple[Callable[[], float]]]:
        """A DoFn travels to its worker with a new one: a lock cannot."""
        return StopWatch, (self._clock,)
