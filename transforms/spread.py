"""Spread: tracks dealt out to all workers, in slices; what is dealt out again is not done again.

A runner repeats what a worker that died had in work: on Flink all that its partition of the job did
so far, which may be days. The tracks of it that are in the run's journal are durable and need not
be labelled again. The journal is only asked about slices that a worker began with before, or that
were written when there was something in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from transforms.journal import list_segments, read_segment
from transforms.records import Track
from transforms.storage.publish import listing_key, listing_keys
from transforms.storage.slices import begin_slice, read_slice, slice_size, write_slice

AGAIN_METRIC = "slices_read_again"


class _WriteDoFn(beam.DoFn):  # type: ignore[misc]
    """Tracks to the paths of slices that hold them."""

    _held: list[Track]
    _written: int  # tracks of the bundle
    _again: bool  # whether tracks are finished already, perhaps some of these

    def __init__(self, journal: str) -> None:
        self._journal = journal

    def start_bundle(self) -> None:
        self._held, self._written = [], 0
        self._again = any(kind == "tracks" for _, kind, _ in list_segments(self._journal))

    def process(self, track: Track) -> Iterator[str]:
        self._held.append(track)
        if len(self._held) >= slice_size(self._written):
            yield self._write()

    def _write(self) -> str:
        path = write_slice(f"{self._journal}/slices", self._held)
        if self._again:
            begin_slice(path)
        self._written += len(self._held)
        self._held = []
        return path

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._held:
            yield GlobalWindows.windowed_value(self._write())


def finished_listings(journal: str) -> set[bytes]:
    """Keys of the listings whose tracks are whole in a journal.

    Raises
    ------
    StorageError
        If a segment cannot be read.
    """
    tracks = (path for path, kind, _ in list_segments(journal) if kind == "tracks")
    return {key for path in tracks for key in listing_keys(read_segment(path))}


def is_finished(track: Track, finished: set[bytes]) -> bool:
    """Whether all listings of a track and its copies are among the finished ones."""
    return all(
        listing_key(member.uri, number) in finished
        for member in track.members
        for number in range(len(member.listings))
    )


class _ReadDoFn(beam.DoFn):  # type: ignore[misc]
    """The path of a slice to its tracks, those that are not in the journal if it is read again."""

    _finished: set[bytes] | None  # of the bundle, as soon as a slice is read again

    def __init__(self, stage: str, journal: str) -> None:
        self._journal = journal
        self._again = Metrics.counter(stage, AGAIN_METRIC)

    def start_bundle(self) -> None:
        self._finished = None

    def process(self, path: str) -> Iterator[Track]:
        if begin_slice(path):
            yield from read_slice(path)
            return
        self._again.inc()
        if self._finished is None:
            self._finished = finished_listings(self._journal)
        for track in read_slice(path):
            if not is_finished(track, self._finished):
                yield track


@dataclass
class Spread(beam.PTransform):  # type: ignore[misc]
    """PCollection of tracks to the same, dealt out to all workers as slices.

    Parameters
    ----------
    stage : str
        The namespace of its metrics.
    journal : str
        ``OUTPUT/journal/RUN_ID``; the slices lie in its folder ``slices``.
    """

    stage: str
    journal: str

    def expand(self, tracks: beam.PCollection) -> beam.PCollection:
        return (
            tracks
            | "Write" >> beam.ParDo(_WriteDoFn(self.journal))
            | beam.Reshuffle()
            | "Read" >> beam.ParDo(_ReadDoFn(self.stage, self.journal))
        )
