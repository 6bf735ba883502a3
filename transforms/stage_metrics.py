"""Counters that every stage keeps: elements in and out, failures by reason, time spent.

They are Beam metrics with the stage's name as namespace, so every runner shows them; a run's
JSON takes its stage timings from here.
"""

from __future__ import annotations

import functools
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from apache_beam import pvalue
from apache_beam.metrics import Metrics

from transforms.errors import Reason, RunError
from transforms.records import Failure, Track
from transforms.stopwatch import StopWatch

T = TypeVar("T")

FAILURES = "failures"
"""Tag of the failures output that every stage has."""

BUSY_METRIC = "busy_microseconds"
IN_METRIC, OUT_METRIC = "elements_in", "elements_out"
FAILED_PREFIX = "failed_"


AUDIO_METRIC = "audio_milliseconds"

WORKER_PREFIX = "Worker/"
"""Namespaces of the counters of one worker process: Worker/HOST/PARENT'S_PID/PID."""

PROFILE = "Profile"
"""Namespace of the counters that say how many microseconds a part of a stage took."""


def count_parts(watch: StopWatch) -> None:
    """Add what a stop watch has counted to the metrics of the running bundle."""
    for part, seconds in watch.take().items():
        _part_counter(part).inc(round(1e6 * seconds))


@functools.cache  # making one takes ten times as long as counting with it
def _part_counter(part: str) -> Any:
    return Metrics.counter(PROFILE, part)


class WorkerMeter:
    """Counts what this process does; make it in ``DoFn.setup``, where the process is known.

    The parent tells the workers of two TaskManagers on one host apart.
    """

    def __init__(self) -> None:
        namespace = f"{WORKER_PREFIX}{socket.gethostname()}/{os.getppid()}/{os.getpid()}"
        self._tracks = Metrics.counter(namespace, "tracks")
        self._audio = Metrics.counter(namespace, AUDIO_METRIC)

    def count(self, audio_milliseconds: int) -> None:
        """Add one decoded track."""
        self._tracks.inc()
        self._audio.inc(audio_milliseconds)


class StageMeter:
    """The metrics of one stage; make it in ``DoFn.__init__``, it travels with the DoFn.

    Attributes
    ----------
    timed : StopWatch
        For the parts of the stage.

    Parameters
    ----------
    stage : str
        The stage's name: the metrics' namespace and the ``stage`` of its failures.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.timed = StopWatch()
        self._in = Metrics.counter(stage, IN_METRIC)
        self._out = Metrics.counter(stage, OUT_METRIC)
        self._busy = Metrics.distribution(stage, BUSY_METRIC)

    def run(
        self, track: Track, work: Callable[[], Iterable[T]]
    ) -> Iterator[T | pvalue.TaggedOutput]:
        """Yield what ``work`` yields; an exception ends it with one tagged ``Failure``."""
        try:
            yield from self.count(work)
        except RunError:
            raise  # not the input's fault: the run stops
        except Exception as error:  # becomes a row of failures/, with its type and message
            yield self.failed(Failure.of(track, self.stage, error))

    def count(self, work: Callable[[], Iterable[T]]) -> Iterator[T]:
        """Yield what ``work`` yields and count it.

        Time is counted while ``work`` runs and not while the stages fused behind this one
        handle what was yielded.
        """
        self._in.inc()
        busy_ns = 0
        started_ns = time.perf_counter_ns()
        try:
            for item in work():
                busy_ns += time.perf_counter_ns() - started_ns
                if not isinstance(item, pvalue.TaggedOutput):  # failures have their own counters
                    self._out.inc()
                yield item
                started_ns = time.perf_counter_ns()
        finally:
            busy_ns += time.perf_counter_ns() - started_ns
            self._busy.update(busy_ns // 1000)
            count_parts(self.timed)

    def failed(self, failure: Failure) -> pvalue.TaggedOutput:
        """Count ``failure`` and tag it for the stage's failures output."""
        reason: Reason = failure.reason
        Metrics.counter(self.stage, FAILED_PREFIX + reason.value).inc()
        return pvalue.TaggedOutput(FAILURES, failure)
