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
from transforms.records import LISTING_COLUMN, Track
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


class Finished:
    """The listings whose tracks are whole in a journal.

    Parameters
    ----------
    journal : str
    """

    def __init__(self, journal: str) -> None:
        self._journal = journal
        self._read: set[str] = set()  # segments
        self._keys: set[bytes] = set()

    def look(self) -> None:
        """Read the segments that have come since the last time.

        Raises
        ------
        StorageError
            If one cannot be read.
        """
        tracks = {path for path, kind, _ in list_segments(self._journal) if kind == "tracks"}
        for path in tracks - self._read:
            self._keys.update(listing_keys(read_segment(path, ["uri", LISTING_COLUMN])))
        self._read |= tracks

    def has(self, track: Track) -> bool:
        """Whether all listings of a track and its copies are among them."""
        return all(
            listing_key(member.uri, number) in self._keys
            for member in track.members
            for number in range(len(member.listings))
        )


class _ReadDoFn(beam.DoFn):  # type: ignore[misc]
    """The path of a slice to its tracks, those that are not in the journal if it is read again."""

    _looked: bool  # in the bundle

    def __init__(self, stage: str, journal: str) -> None:
        self._finished = Finished(journal)
        self._again = Metrics.counter(stage, AGAIN_METRIC)

    def start_bundle(self) -> None:
        self._looked = False

    def process(self, path: str) -> Iterator[Track]:
        if begin_slice(path):
            yield from read_slice(path)
            return
        self._again.inc()
        if not self._looked:
            self._finished.look()
            self._looked = True
        for track in read_slice(path):
            if not self._finished.has(track):
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
