"""A live source published into this process: standard input, a file, or a radio's web address.

The publisher of transforms.streaming.publisher, with a short queue in place of a topic. When the
queue is full it waits, and so, in the end, does who writes into the pipe.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from transforms.errors import StageError
from transforms.streaming.arrivals import (
    MAX_POLL_BYTES,
    Arrived,
    Polled,
    Source,
    SourceFailure,
    SourceSpec,
)
from transforms.streaming.blocks import Block, encode_block
from transforms.streaming.publisher import Plan, Publisher
from transforms.streaming.watermark import DEFAULT_IDLE_SECONDS, Watermark

MAX_HELD = 64  # blocks
_LOOK_SECONDS = 0.1
_END_SECONDS = 5.0  # for a thread that was told to stop

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedSpec(SourceSpec):
    """A source, and how it is published.

    Parameters
    ----------
    source : str
        ``-``, a path, or an address of http or https.
    stream_id : str
    plan : Plan
    idle_seconds : float
        Without sound for so long, it does not hold up other sources.
    """

    source: str
    stream_id: str
    plan: Plan
    idle_seconds: float = DEFAULT_IDLE_SECONDS

    def open(self) -> PublishedSource:
        return PublishedSource(self)


class _Queue:
    """A sink whose blocks are taken in another thread."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Block] = queue.Queue(MAX_HELD)
        self._closed = threading.Event()

    def send(self, block: Block) -> None:
        while not self._closed.is_set():
            try:
                return self._queue.put(block, timeout=_LOOK_SECONDS)
            except queue.Full:
                continue

    def take(self) -> Block | None:
        """The next block, if one is there."""
        try:
            return self._queue.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        """What is sent from now on goes nowhere."""
        self._closed.set()


class PublishedSource(Source):
    """Made by :meth:`PublishedSpec.open`.

    Parameters
    ----------
    spec : PublishedSpec
    clock : callable
        Seconds, of which only differences count.
    """

    def __init__(self, spec: PublishedSpec, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream_id = spec.stream_id
        self._queue = _Queue()
        self._watermark = Watermark(spec.idle_seconds, clock)
        self._publisher = Publisher(
            spec.source, (spec.stream_id,), spec.plan, self._queue, _LOG.warning
        )
        self._thread = threading.Thread(target=self._publisher.run, daemon=True)
        self._thread.start()

    def poll(self) -> Polled:
        has_ended = not self._thread.is_alive()  # then nothing is sent behind what is there now
        items: list[Arrived | SourceFailure] = []
        size = 0
        while size < MAX_POLL_BYTES and (block := self._queue.take()) is not None:
            items.append(Arrived(block.stream_id, encode_block(block), block.event_time_us))
            size += len(block.payload)
            self._watermark.saw(block.stream_id, block.event_time_us, last=block.last)
        has_ended = has_ended and size < MAX_POLL_BYTES
        if has_ended:
            items += self._failures()
        return Polled(tuple(items), self._watermark.now_us(), has_ended)

    def _failures(self) -> list[SourceFailure]:
        failure = self._publisher.failure
        if failure is None:
            return []
        if not isinstance(failure, StageError):
            raise failure
        return [SourceFailure.of(self._publisher.source_name, failure, self._stream_id)]

    def close(self) -> None:
        self._publisher.stop()
        self._queue.close()
        self._thread.join(_END_SECONDS)
