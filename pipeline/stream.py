"""Label live streams: ``python -m pipeline.stream --source=... --to=...``."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from pipeline.logs import quiet_native_libraries
from pipeline.program import EXIT_DONE, EXIT_FAILED, exit_status
from pipeline.publish_arguments import default_id
from pipeline.stream_arguments import StreamConfig, parse_options
from transforms.errors import UsageError
from transforms.streaming.kafka_client import KAFKA, KafkaTopic, check_takes, partitions_of

if TYPE_CHECKING:
    from transforms.streaming.live_root import Stop


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stream program.

    Returns
    -------
    int
        The exit status, as the end of ``--help`` states them.
    """
    return run(parse_options(argv))


def run(config: StreamConfig) -> int:
    """Run the stream program of a configuration; returns the exit status."""
    return exit_status(lambda: _compare(config) if config.compare else _stream(config))


def _stream(config: StreamConfig) -> int:
    _check(config)
    from pipeline.runner import Interrupts  # Beam takes a second to import
    from pipeline.stream_graph import StreamJob
    from pipeline.stream_job import run_job
    from pipeline.stream_settings import listen_settings
    from transforms.streaming.live_root import Stop

    job = StreamJob(config=config, settings=listen_settings(config), stop=Stop.new())
    with _stopped_by_signals(job.stop) if config.is_live else Interrupts():
        run_job(job)
    return EXIT_DONE


def _compare(config: StreamConfig) -> int:
    from pipeline.compare import run_compare
    from pipeline.stream_settings import find_recogniser, half_life_of
    from transforms.streaming.comparing import TOLERANCE

    half_life_seconds = half_life_of(config, find_recogniser(config.model))
    difference = run_compare(
        str(config.compare),
        model=config.model,
        half_life_seconds=half_life_seconds,
        denoise=config.denoise,
        picture=Path(config.picture),
    )
    return EXIT_DONE if difference <= TOLERANCE else EXIT_FAILED  # NaN is not less than anything


def _check(config: StreamConfig) -> None:
    """Raise UsageError for sources that cannot be read together, or so."""
    sources = config.sources
    kafka = [source for source in sources if source.startswith(KAFKA)]
    for option, given in (("source", sources), ("to", config.sinks)):
        if twice := [one for one in given if given.count(one) > 1]:
            raise UsageError(f"--{option}={twice[0]} can be given only once")
    if kafka and len(sources) > 1:
        raise UsageError(f"--source={kafka[0]}: a topic is read alone; start a program for each")
    if config.once and (kafka or len(sources) > 1 or sources[0] == "-" or "://" in sources[0]):
        raise UsageError(
            f"--once is for one folder, which {', '.join(sources)} is not: other sources have no "
            "end to find"
        )
    if config.is_live and config.runner != "DirectRunner":
        raise UsageError(
            f"--runner={config.runner} cannot follow {sources[0]}, which is on this machine: let "
            "pipeline.publish send it to Kafka, and give --source=kafka://HOST:PORT/TOPIC"
        )
    if config.for_seconds is not None and not config.is_live:
        raise UsageError("--for_seconds is for live sources of this machine")
    _check_ids([source for source in sources if source == "-" or source.startswith("http")])
    failures = [f"{sink}-failures" for sink in config.sinks if sink.startswith(KAFKA)]
    clean = [] if config.clean_to is None else [config.clean_to]
    _check_ends(kafka, [*config.sinks, *failures, *clean])


def _check_ids(sources: Sequence[str]) -> None:
    ids = [default_id(source) for source in sources]
    for source, stream_id in zip(sources, ids, strict=True):
        if not stream_id or ids.count(stream_id) > 1:
            raise UsageError(
                f"--source={source}: no stream_id of its own can be made of it; let "
                "pipeline.publish --stream_id=... send it to a folder"
            )


def _check_ends(topics: Sequence[str], sinks: Sequence[str]) -> None:
    """Ask for each topic and folder."""
    for address in topics:
        partitions_of(KafkaTopic.parse(address))
    for sink in sinks:
        if sink.startswith(KAFKA):
            check_takes(KafkaTopic.parse(sink))
        elif sink != "-":
            _check_folder(sink)


def _check_folder(folder: str) -> None:
    """Refuse a folder of this machine that cannot be made or written, and an unknown scheme."""
    scheme, separator, _ = folder.partition("://")
    if separator and scheme in ("http", "https"):
        raise UsageError(f"{folder}: give -, a folder, or kafka://HOST:PORT/TOPIC")
    if separator:
        return  # one of Beam's file systems, or an error of its own
    path = Path(folder).absolute()
    while not path.exists():
        path = path.parent
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"{folder}: no folder can be made at {path}; name another")


@contextlib.contextmanager
def _stopped_by_signals(stop: Stop) -> Iterator[None]:
    """The first signal ends live sources, and what came is labelled; a second one ends all."""
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    options = parse_options()
    quiet_native_libraries()
    sys.exit(run(options))
