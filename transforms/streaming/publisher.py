"""One source to one stream, or several alike: session after session, until it ends.

A source that is a web address may break off: then a new session begins when it is back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction

from transforms.errors import StageError
from transforms.streaming.block_sinks import BlockSink
from transforms.streaming.blocks import Block
from transforms.streaming.cutting import DEFAULT_BLOCK_SECONDS, Cutter, Sound
from transforms.streaming.http_input import without_password
from transforms.streaming.live_input import Input
from transforms.streaming.live_source import Conversion, LiveSource, is_url, make_input

LONGEST_WAIT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How sources are published."""

    session: int  # of all, at first
    origin_us: int | None = None  # event time of the first sample; None: when it came
    block_seconds: float = DEFAULT_BLOCK_SECONDS
    conversion: Conversion = field(default_factory=Conversion)
    real_time: bool = False  # no sooner than it sounds
    seconds: Fraction | None = None  # of each stream
    retries: int = 10  # in a row, of a source that broke off
    patience_s: float = 10.0  # for a web address


class Publisher:
    """Publishes one source; made for a thread of its own.

    Parameters
    ----------
    source : str
        A path, ``-`` or a web address.
    stream_ids : tuple of str
        Each gets every block.
    plan : Plan
    sink : BlockSink
    tell : callable
        Takes a line for the user.

    Attributes
    ----------
    seconds, blocks, damaged : float, int, int
        Published so far, of each stream; pieces that could not be decoded.
    failure : Exception or None
        Why it was given up: a StageError tells of the source, all else of more than that.
    """

    def __init__(
        self,
        source: str,
        stream_ids: tuple[str, ...],
        plan: Plan,
        sink: BlockSink,
        tell: Callable[[str], object],
    ) -> None:
        self.source, self.stream_ids = source, stream_ids
        self._plan, self._sink, self._tell = plan, sink, tell
        self._stop = threading.Event()
        self._input: Input | None = None
        self._cutter: Cutter | None = None  # of the latest session
        self._session = plan.session - 1
        self._left = plan.seconds
        self._offset_us = 0  # event time less the clock of this machine
        self._zero_s = 0.0  # of the monotonic clock, where event time is 0
        self._failed = 0  # attempts since sound came
        self._end_us = 0  # event time behind what was published
        self.seconds, self.blocks, self.damaged = 0.0, 0, 0
        self.failure: Exception | None = None

    @property
    def name(self) -> str:
        """Of its stream, or of the first and how many there are."""
        more = len(self.stream_ids) - 1
        return self.stream_ids[0] + (f" and {more} more" if more else "")

    @property
    def source_name(self) -> str:
        """The source, without a password."""
        return without_password(self.source) if is_url(self.source) else self.source

    @property
    def delay_s(self) -> float:
        """How long ago the latest sound was, by the clock of event time."""
        return (_now_us() + self._offset_us - self._end_us) / 1e6

    def stop(self) -> None:
        """From another thread: end the streams with what has come so far."""
        self._stop.set()
        data = self._input
        if data is not None:
            data.stop()

    def run(self) -> None:
        """Publish to the end; a failure is kept, not raised."""
        try:
            self._publish()
        except Exception as error:  # whoever started the thread looks at it
            self.failure = error

    def _publish(self) -> None:
        failure = self._attempt()
        while failure is not None and self._may_retry():
            if self._cutter is not None:
                self._send(self._cutter.rest())
            self._wait(failure)
            if not self._stop.is_set():
                failure = self._attempt()
        if self._cutter is not None:
            self._send(self._cutter.end())
        if failure is not None and not self._stop.is_set():
            raise failure

    def _attempt(self) -> StageError | None:
        """One session, to its end, or to what broke it off."""
        try:
            data = self._input = make_input(self.source, self._plan.patience_s)
            if self._stop.is_set():
                data.stop()
            with data:
                self._session_of(data)
        except StageError as error:
            return error
        return None

    def _session_of(self, data: Input) -> None:
        cutter: Cutter | None = None
        source, damaged = LiveSource(data, self._plan.conversion), self.damaged
        for sound in source.sounds():
            self.damaged, self._failed = damaged + source.damaged, 0
            if cutter is None:
                cutter = self._new_cutter(data)
            self._send(cutter.add(self._taken(sound)))
            if self._left is not None and self._left * sound.sample_rate_hz < 1:
                return
            if self._plan.real_time and self._stop.is_set():  # else what has come is sent, too
                return

    def _new_cutter(self, data: Input) -> Cutter:
        began_s = time.monotonic() if data.began_s is None else data.began_s
        began_us = _now_us() - round(1e6 * (time.monotonic() - began_s))
        if self._cutter is None and self._plan.origin_us is not None:
            self._offset_us = self._plan.origin_us - began_us
        origin_us = max(began_us + self._offset_us, self._end_us)  # event time never goes back
        self._session += 1
        self._zero_s = began_s - origin_us / 1e6
        self._cutter = Cutter(
            self.stream_ids[0], self._session, origin_us, self._plan.block_seconds
        )
        return self._cutter

    def _taken(self, sound: Sound) -> Sound:
        """What of it is within the seconds that were asked for."""
        if self._left is None:
            return sound
        sound = sound.first(min(self._left, sound.seconds))
        self._left -= sound.seconds
        return sound

    def _send(self, blocks: Iterable[Block]) -> None:
        for block in blocks:
            if self._plan.real_time:
                due_s = self._zero_s + block.end_time_us / 1e6
                self._stop.wait(max(0.0, due_s - time.monotonic()))
            for stream_id in self.stream_ids:
                self._sink.send(replace(block, stream_id=stream_id))
            self.blocks += 1
            self.seconds += block.frames / block.sample_rate_hz
            self._end_us = block.end_time_us

    def _may_retry(self) -> bool:
        """An address that has never given sound is more likely wrong than broken off."""
        return (
            is_url(self.source)
            and self._cutter is not None
            and self._failed < self._plan.retries
            and not self._stop.is_set()
        )

    def _wait(self, failure: StageError) -> None:
        wait_s = min(LONGEST_WAIT_S, 2.0**self._failed)
        self._failed += 1
        self._tell(
            f"{self.name}: {failure.message}; again in {wait_s:g} s "
            f"({self._failed} of {self._plan.retries})"
        )
        self._stop.wait(wait_s)


def _now_us() -> int:
    return time.time_ns() // 1_000
