"""How far the event time of several streams has come, told from what they have sent."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

DEFAULT_IDLE_SECONDS = 10.0


@dataclass
class _Seen:
    event_time_us: int  # the latest
    at_s: float  # when it came


class Watermark:
    """The lowest event time that may still come.

    It is the least of the streams' latest event times. A stream that has been silent for
    ``idle_seconds`` no longer counts; when none counts, time goes on from where it is, as fast as
    the clock.

    Parameters
    ----------
    idle_seconds : float
    clock : callable
        Seconds, of which only differences count.
    """

    def __init__(self, idle_seconds: float, clock: Callable[[], float]) -> None:
        self._idle_s, self._clock = idle_seconds, clock
        self._streams: dict[str, _Seen] = {}  # those that count
        self._reached_us: int | None = None
        self._since_s = 0.0  # when it was there, if no stream counts

    def saw(self, stream_id: str, event_time_us: int, *, last: bool = False) -> None:
        """A block came, which may be the last of its stream."""
        seen = self._streams.setdefault(stream_id, _Seen(event_time_us, 0.0))
        seen.event_time_us = max(seen.event_time_us, event_time_us)
        seen.at_s = self._clock() - (self._idle_s if last else 0.0)

    def now_us(self, pending: Collection[str] = ()) -> int | None:
        """The watermark, which never goes back; None before the first block.

        Parameters
        ----------
        pending : collection of str
            Streams of which something is there that has not been read; none of them is idle.
        """
        now_s = self._clock()
        if any(stream_id not in self._streams for stream_id in pending):
            return self._reached_us  # no telling what its time is
        for stream_id in pending:
            self._streams[stream_id].at_s = now_s
        dropped = self._drop_idle(now_s)
        if self._streams:
            self._raise_to(min(seen.event_time_us for seen in self._streams.values()))
        elif dropped:
            self._raise_to(max(seen.event_time_us for seen in dropped))
            self._since_s = max(seen.at_s for seen in dropped) + self._idle_s
        if not self._streams and self._reached_us is not None:
            self._reached_us += max(0, int(1e6 * (now_s - self._since_s)))
            self._since_s = max(self._since_s, now_s)
        return self._reached_us

    def _drop_idle(self, now_s: float) -> list[_Seen]:
        idle = [name for name, seen in self._streams.items() if now_s - seen.at_s >= self._idle_s]
        return [self._streams.pop(name) for name in idle]

    def _raise_to(self, event_time_us: int) -> None:
        self._reached_us = max(event_time_us, self._reached_us or 0)
