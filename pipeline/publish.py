"""Publish live sound: ``python -m pipeline.publish --source=... --to=...``."""

from __future__ import annotations

import contextlib
import datetime as dt
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pipeline.program import EXIT_DONE, EXIT_FAILED, exit_status
from pipeline.publish_arguments import PublishConfig, parse_options
from transforms.errors import StageError

if TYPE_CHECKING:
    from transforms.streaming.publisher import Plan, Publisher

_PROGRESS_SECONDS = 10.0
_LOOK_SECONDS = 0.1
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the publisher.

    Returns
    -------
    int
        The exit status, as the end of ``--help`` states them.
    """
    return run(parse_options(argv))


def run(config: PublishConfig) -> int:
    """Run the publisher of a configuration; returns the exit status."""
    return exit_status(lambda: _publish(config))


def _publish(config: PublishConfig) -> int:
    # PyAV and Kafka's client take their time to import; --help should not.
    from transforms.streaming.block_sinks import open_sink
    from transforms.streaming.publisher import Publisher

    stop = threading.Event()
    with _ended_by_signals(stop):
        sink, plan = open_sink(config.to), _plan(config)
        publishers = [
            Publisher(source, ids, plan, sink, _tell)
            for source, ids in zip(config.sources, config.stream_ids, strict=True)
        ]
        _run_all(publishers, stop, config.progress)
        failures = [publisher.failure for publisher in publishers if publisher.failure]
        for failure in failures:
            if not isinstance(failure, StageError):  # the sink's, or a bug
                raise failure
        sink.close()
    return EXIT_FAILED if failures else EXIT_DONE


def _plan(config: PublishConfig) -> Plan:
    from transforms.streaming.live_source import Conversion
    from transforms.streaming.publisher import Plan

    origin = config.event_time
    return Plan(
        session=time.time_ns() // 1_000 if config.session is None else config.session,
        origin_us=None if origin is None else (origin - _EPOCH) // dt.timedelta(microseconds=1),
        block_seconds=config.block_seconds,
        conversion=Conversion(
            encoding=config.encoding,
            sample_rate_hz=config.sample_rate_hz,
            channels=config.channels,
        ),
        real_time=config.real_time,
        seconds=config.seconds,
        retries=config.retries,
        patience_s=config.timeout_seconds,
    )


@contextlib.contextmanager
def _ended_by_signals(stop: threading.Event) -> Iterator[None]:
    """Set ``stop`` at the first signal; a second one ends the process as ever."""

    def handle(*_: object) -> None:
        stop.set()
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_all(publishers: list[Publisher], stop: threading.Event, progress: str) -> None:
    """One thread for each source, until all have ended."""
    running = {
        threading.Thread(target=publisher.run, name=publisher.source, daemon=True): publisher
        for publisher in publishers
    }
    for thread in running:
        thread.start()
    told_s = time.monotonic()
    while running:
        if stop.wait(_LOOK_SECONDS):
            for publisher in running.values():
                publisher.stop()
            time.sleep(_LOOK_SECONDS)
        for thread in [thread for thread in running if not thread.is_alive()]:
            _tell_end(running.pop(thread), progress)
        if progress == "lines" and time.monotonic() - told_s >= _PROGRESS_SECONDS:
            told_s = time.monotonic()
            for publisher in running.values():
                _tell(_account(publisher) + f", {publisher.delay_s:.1f} s behind")


def _account(publisher: Publisher) -> str:
    damaged = f", {publisher.damaged} pieces could not be decoded" if publisher.damaged else ""
    return f"{publisher.name}: {publisher.seconds:.1f} s in {publisher.blocks} blocks{damaged}"


def _tell_end(publisher: Publisher, progress: str) -> None:
    if isinstance(publisher.failure, StageError):
        _tell(f"error: {publisher.source_name}: {publisher.failure}")
    if progress == "lines" and (publisher.blocks or not publisher.failure):
        _tell(_account(publisher) + ", ended")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
