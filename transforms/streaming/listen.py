"""Listen: the blocks of many streams at once to their rows, each stream with a state of its own.

The state lies in Beam's, as bytes (transforms.streaming.stream_state), so that a runner's
checkpoints hold it. Both timers go by event time: what they do is the same in every repetition of
the work. A timer looks at the state and not at why it was set: some runners fire one twice.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.coders import BytesCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import (
    BagStateSpec,
    ReadModifyWriteStateSpec,
    TimerSpec,
    on_timer,
)
from apache_beam.utils.timestamp import Timestamp

from transforms.errors import StageError
from transforms.models.vit import use_threads
from transforms.streaming.blocks import decode_block, encode_block
from transforms.streaming.follower import Outcome
from transforms.streaming.listening import ListenSettings, load_follower
from transforms.streaming.ordering import Order, OrderRules
from transforms.streaming.rows import LabelRow, StreamFailureRow
from transforms.streaming.stream_state import StreamState

STAGE = "Listen"
ROWS, FAILURES, CLEAN = "rows", "failures", "clean"
"""The outputs."""

_STREAM_SPEC = ReadModifyWriteStateSpec("stream", BytesCoder())
_HELD_SPEC = BagStateSpec("held", BytesCoder())
_GAP_SPEC = TimerSpec("gap", TimeDomain.WATERMARK)
_IDLE_SPEC = TimerSpec("idle", TimeDomain.WATERMARK)
_STREAM, _HELD = beam.DoFn.StateParam(_STREAM_SPEC), beam.DoFn.StateParam(_HELD_SPEC)
_GAP, _IDLE = beam.DoFn.TimerParam(_GAP_SPEC), beam.DoFn.TimerParam(_IDLE_SPEC)


class _Kept:
    """What Beam keeps of one stream."""

    def __init__(self, rules: OrderRules, stream: Any, held: Any, gap: Any) -> None:
        self._stream, self._held, self._gap = stream, held, gap
        content = stream.read()
        self.is_new = not content
        self.state = StreamState.from_bytes(content) if content else StreamState()
        cursor = self.state.cursor
        waiting = [decode_block(one) for one in held.read()] if cursor.held_blocks else []
        self._waited = bool(waiting)
        self.order = Order(rules, cursor, {one.sequence: one for one in waiting})

    def write(self) -> None:
        """Keep the state as it is now, and set the timer for what waits."""
        self.state.cursor = self.order.cursor
        self._stream.write(self.state.to_bytes())
        if self._waited:
            self._held.clear()
        for block in self.order.held.values():
            self._held.add(encode_block(block))
        if self.order.due_us is not None:
            self._gap.set(_moment(self.order.due_us + self.state.offset_us))
        elif self._waited:
            self._gap.clear()

    def forget(self) -> None:
        """Keep nothing."""
        for kept in (self._stream, self._held, self._gap):
            kept.clear()


class _ListenDoFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, settings: ListenSettings) -> None:
        self._settings = settings
        self._idle_us, self._forget_us = settings.idle_us, settings.forget_us

    def setup(self) -> None:
        self._follower = load_follower(self._settings)

    def start_bundle(self) -> None:
        use_threads(1)  # several add up in another order; it holds for the calling thread alone

    def process(
        self,
        element: tuple[str, bytes],
        stream: Any = _STREAM,
        held: Any = _HELD,
        gap: Any = _GAP,
        idle: Any = _IDLE,
        timestamp: Timestamp = beam.DoFn.TimestampParam,
    ) -> Iterator[Any]:
        kept, block = _Kept(self._settings.order, stream, held, gap), decode_block(element[1])
        state, order = kept.state, kept.order
        # A topic's time may be its broker's: the same for a stream of today, not for one of old.
        state.offset_us = timestamp.micros - block.event_time_us
        _count("blocks")
        try:
            for event in order.arrive(block):
                state.cursor = order.cursor
                yield from _told(self._follower.follow(block.stream_id, [event], state))
        except StageError as error:
            yield from _told([self._follower.refuse(block, error, state)])
        _count("repeated_blocks", order.repeated)
        self._wake(state, order.cursor.end_us + self._idle_us, idle)
        kept.write()

    @on_timer(_GAP_SPEC)  # type: ignore[untyped-decorator]
    def give_up(
        self,
        key: str = beam.DoFn.KeyParam,
        timestamp: Timestamp = beam.DoFn.TimestampParam,
        stream: Any = _STREAM,
        held: Any = _HELD,
        gap: Any = _GAP,
    ) -> Iterator[Any]:
        """What is missing was waited for long enough."""
        kept = _Kept(self._settings.order, stream, held, gap)
        if kept.is_new:  # it was forgotten: some runners fire a timer that was cleared
            return
        events = kept.order.expire(timestamp.micros - kept.state.offset_us)
        yield from _told(self._follower.follow(key, events, kept.state))
        kept.write()

    @on_timer(_IDLE_SPEC)  # type: ignore[untyped-decorator]
    def rest(
        self,
        key: str = beam.DoFn.KeyParam,
        timestamp: Timestamp = beam.DoFn.TimestampParam,
        stream: Any = _STREAM,
        held: Any = _HELD,
        gap: Any = _GAP,
        idle: Any = _IDLE,
    ) -> Iterator[Any]:
        """No block has come for a while, or for very long."""
        kept = _Kept(self._settings.order, stream, held, gap)
        if kept.is_new:
            return
        state = kept.state
        silent_us = timestamp.micros - state.offset_us - state.cursor.end_us
        if silent_us >= self._forget_us:
            yield from _told(self._follower.follow(key, kept.order.close(), state))
            kept.forget()
            return
        if silent_us >= self._idle_us and not state.asleep:
            yield from _told(self._follower.sleep(key, state))
        wait_us = self._forget_us if state.asleep else self._idle_us
        state.timer_us = 0
        self._wake(state, state.cursor.end_us + wait_us, idle)
        kept.write()

    def _wake(self, state: StreamState, due_us: int, idle: Any) -> None:
        """Set the timer unless it fires before: it is not set anew for every block."""
        due_us += state.offset_us
        if not state.timer_us or state.timer_us > due_us:
            state.timer_us = due_us
            idle.set(_moment(due_us))


def _moment(due_us: int) -> Timestamp:
    """When a timer may fire: Beam hands timers on in milliseconds, rounded down."""
    return Timestamp(micros=-(-due_us // 1_000) * 1_000)


def _told(outcomes: Iterable[Outcome]) -> Iterator[Any]:
    """Outcomes to their outputs, at the event time of what brought them."""
    for outcome in outcomes:
        if isinstance(outcome, LabelRow):
            _count(f"rows_{outcome.kind}")
            yield outcome
        elif isinstance(outcome, StreamFailureRow):
            _count(f"failed_{outcome.reason}")
            yield beam.pvalue.TaggedOutput(FAILURES, outcome)
        else:
            yield beam.pvalue.TaggedOutput(CLEAN, outcome)


@functools.cache  # making one takes ten times as long as counting with it
def _counter(name: str) -> Any:
    return Metrics.counter(STAGE, name)


def _count(name: str, number: int = 1) -> None:
    if number:
        _counter(name).inc(number)


@dataclass
class Listen(beam.PTransform):  # type: ignore[misc]
    """PCollection of (stream id, block on the wire) to ``.rows``, ``.failures`` and ``.clean``.

    ``rows`` are LabelRow, at the event time of the block, or the timer, that completed them: never
    late where the block was not. ``failures`` are StreamFailureRow; ``clean`` are Block, the
    streams without their noise, where a denoiser is given.

    Parameters
    ----------
    settings : ListenSettings
    """

    settings: ListenSettings

    def expand(self, blocks: beam.PCollection) -> beam.pvalue.DoOutputsTuple:
        return blocks | beam.ParDo(_ListenDoFn(self.settings)).with_outputs(
            FAILURES, CLEAN, main=ROWS
        )
