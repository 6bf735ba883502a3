"""A root of a graph that asks live sources, for Beam's BundleBasedDirectRunner.

Of the runners that need no Java, only this one fires event-time timers when the watermark passes
them. It has no public interface for unbounded sources of one's own: what is registered here is what
Beam's own reading from Pub/Sub is on it.

A new poll begins when all that the last one gave has gone through the graph: nothing piles up.
"""

from __future__ import annotations

import functools
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.runners.direct import transform_evaluator
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.direct.util import TransformResult
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp

from transforms.errors import UsageError
from transforms.streaming.arrivals import Arrived, Polled, Source, SourceFailure, SourceSpec

WAIT_SECONDS = 0.2  # for something to come, before timers by the clock are looked at
_LOOK_SECONDS = 0.05


@functools.cache
def _event(token: str) -> threading.Event:
    return threading.Event()


@dataclass(frozen=True)
class Stop:
    """Ends live sources of this process; copies of it, pickled ones too, end the same."""

    token: str

    @classmethod
    def new(cls) -> Stop:
        """One that was not set."""
        return cls(uuid.uuid4().hex)

    def set(self) -> None:
        """Let the sources end, and all that is in the graph come out."""
        _event(self.token).set()

    def wait(self, seconds: float) -> bool:
        """Whether it was set, after waiting for it at most so long."""
        return _event(self.token).wait(seconds)


class LivePolls:
    """Polls several sources as one, to their end.

    Parameters
    ----------
    specs : sequence of SourceSpec
    stop : Stop
    for_seconds : float or None
        None: until they end by themselves, or are stopped.
    """

    def __init__(
        self,
        specs: Sequence[SourceSpec],
        stop: Stop,
        for_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stop, self._clock = stop, clock
        self._until_s = float("inf") if for_seconds is None else clock() + for_seconds
        self._open: dict[Source, int | None] = {spec.open(): None for spec in specs}
        self._watermark_us: int | None = None
        self._broken: Exception | None = None

    def poll(self) -> Polled:
        """What has come, at once; if nothing has, wait a little.

        An exception is for ever: the runner tries again, and what it missed would be lost.

        Either items or a new watermark, never both, and the watermark only goes up: a timer that
        comes due together with elements would fire twice on this runner.
        """
        if self._broken is not None:
            raise self._broken
        try:
            return self._poll()
        except Exception as error:
            self._broken = error
            raise

    def _poll(self) -> Polled:
        if self._raise_watermark():  # by what was given the last time
            return Polled((), self._watermark_us)
        give_up_s = self._clock() + WAIT_SECONDS
        while True:
            is_over = self._stop.wait(0) or self._clock() >= self._until_s
            items = self._items()
            if is_over:
                self.close()
            if items:
                return Polled(items, self._watermark_us)
            if not self._open:
                return Polled(ended=True)
            if self._clock() >= give_up_s:  # not before: of idle sources it goes with the clock
                self._raise_watermark()
                return Polled((), self._watermark_us)
            self._stop.wait(_LOOK_SECONDS)

    def _items(self) -> tuple[Arrived | SourceFailure, ...]:
        found: list[Arrived | SourceFailure] = []
        for source in list(self._open):
            polled = source.poll()
            found += polled.items
            self._open[source] = polled.watermark_us
            if polled.ended:
                source.close()
                del self._open[source]
        return tuple(found)

    def _raise_watermark(self) -> bool:
        lows = list(self._open.values())
        known = [low for low in lows if low is not None]
        if not known or len(known) < len(lows):
            return False
        if self._watermark_us is not None and min(known) <= self._watermark_us:
            return False
        self._watermark_us = min(known)
        return True

    def close(self) -> None:
        """End all sources."""
        while self._open:
            self._open.popitem()[0].close()


class LiveRoot(beam.PTransform):  # type: ignore[misc]
    """A PCollection of Arrived and SourceFailure, timestamped with their event times.

    Parameters
    ----------
    specs, stop, for_seconds
        As for :class:`LivePolls`.

    Raises
    ------
    UsageError
        When it is applied, on any runner but BundleBasedDirectRunner.
    """

    def __init__(
        self, specs: Sequence[SourceSpec], stop: Stop, for_seconds: float | None = None
    ) -> None:
        super().__init__()
        self.specs, self.stop, self.for_seconds = tuple(specs), stop, for_seconds

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        if not isinstance(begin.pipeline.runner, BundleBasedDirectRunner):
            raise UsageError(
                f"{type(begin.pipeline.runner).__name__} reads no live sources: use DirectRunner, "
                "or let blocks go through Kafka"
            )
        return pvalue.PCollection(begin.pipeline, element_type=object, is_bounded=False)

    def get_windowing(self, inputs: object) -> beam.Windowing:
        return beam.Windowing(GlobalWindows())

    @functools.cached_property
    def polls(self) -> LivePolls:
        """Opens the sources; for the runner, which asks only in the thread that reads them."""
        return LivePolls(self.specs, self.stop, self.for_seconds)


class _Evaluator(transform_evaluator._TransformEvaluator):  # type: ignore[misc]
    """One poll. The runner comes again for as long as there is an unprocessed bundle."""

    def process_element(self, element: object) -> None:
        """Take the mark of the poll before, which says nothing."""

    def finish_bundle(self) -> TransformResult:
        polled = self._applied_ptransform.transform.polls.poll()
        bundles = []
        if polled.items:  # a bundle without elements would still go through the graph
            (output,) = self._outputs
            bundles.append(self._evaluation_context.create_bundle(output))
            for item in polled.items:
                bundles[0].output(
                    GlobalWindows.windowed_value(item, timestamp=_time_of(item, polled))
                )
        if polled.ended:
            return TransformResult(self, bundles, [], None, {None: MAX_TIMESTAMP})
        again = self._evaluation_context.create_bundle(
            pvalue.PBegin(self._applied_ptransform.transform.pipeline)
        )
        # Not empty, else the runner would keep it for ever; it holds no watermark back.
        again.add(GlobalWindows.windowed_value(b"", timestamp=MAX_TIMESTAMP))
        return TransformResult(self, bundles, [again], None, {None: _hold(polled)})


def _time_of(item: Arrived | SourceFailure, polled: Polled) -> Timestamp:
    if isinstance(item, Arrived):
        return Timestamp(micros=item.event_time_us)
    return _hold(polled)


def _hold(polled: Polled) -> Timestamp:
    if polled.watermark_us is None:
        return MIN_TIMESTAMP
    return min(Timestamp(micros=polled.watermark_us), MAX_TIMESTAMP - 1)


transform_evaluator.TransformEvaluatorRegistry._test_evaluators_overrides[LiveRoot] = _Evaluator
