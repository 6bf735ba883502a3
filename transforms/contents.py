"""Tracks by their bytes: each distinct content is worked on once, and what is known is not.

What Decode and Enhance have in common: a DoFn that fetches a track and its copies, hashes them,
leaves out what earlier runs have done, and hands on the rest, content by content.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows

from transforms.audio.sandbox import DecoderLimits, Sandbox
from transforms.books import SKIPPED
from transforms.errors import RunError, WorkerError
from transforms.fetch import Fetched, fetched
from transforms.records import Failure, KnownContent, Track
from transforms.results import LABELS, Results
from transforms.stage_metrics import AUDIO_METRIC, StageMeter, WorkerMeter
from transforms.storage.known import Known, KnownRows, load_known

KNOWN, COUNTS = "known", "counts"

Output: TypeAlias = "Any | pvalue.TaggedOutput[Any, Any]"


class ContentDoFn(beam.DoFn):  # type: ignore[misc]
    """Tracks to what :meth:`work` makes of each distinct content.

    Besides its main output it has failures, :data:`KNOWN` (KnownContent) and :data:`COUNTS`.

    Parameters
    ----------
    limits : DecoderLimits
        What the decoding of one file may cost.
    known : KnownRows, optional
        What earlier runs have done.
    """

    results: Results = LABELS
    """Whose rows are known; its stage is the failures'."""

    _sandbox: Sandbox  # from setup on
    _over = False  # whether the worker ends: Beam may tear down while a bundle is in work
    _worker: WorkerMeter
    _known: Known | None
    _skipped: Counter[str]

    def __init__(self, limits: DecoderLimits, known: KnownRows | None) -> None:
        self._limits = limits
        self._known_rows = known
        self._meter = StageMeter(self.results.stage)
        self._audio = Metrics.counter(self.results.stage, AUDIO_METRIC)

    def setup(self) -> None:
        self._worker = WorkerMeter()
        self._sandbox = Sandbox(self._limits)
        with contextlib.suppress(WorkerError):  # the first track will tell
            self._sandbox.start()  # while the stages behind set themselves up
        self._known = None if self._known_rows is None else load_known(self._known_rows)

    def start_bundle(self) -> None:
        self._skipped = Counter()

    def process(self, track: Track) -> Iterator[Output]:
        yield from self._meter.count(lambda: self._results(track))

    def work(self, track: Track, source: Fetched) -> Iterator[Any]:
        """Yield what becomes of a content that nothing is known of."""
        raise NotImplementedError

    def count_audio(self, duration_s: float) -> None:
        """Count one track's sound."""
        milliseconds = round(1e3 * duration_s)
        self._audio.inc(milliseconds)
        self._worker.count(milliseconds)

    def _results(self, track: Track) -> Iterator[Output]:
        """Fetch all members of a track, then work on each distinct content once."""
        contents: dict[str, tuple[Fetched, list[Track]]] = {}
        with contextlib.ExitStack() as kept:
            for member in track.members:
                alone = dataclasses.replace(member, copies=())
                yield from self._guarded(alone, None, self._fetch(alone, contents, kept))
            for source, members in contents.values():
                if fresh := self._unknown(members, source.sha256):
                    same = dataclasses.replace(fresh[0], copies=tuple(fresh[1:]))
                    if self._known is not None and self._known.has_bytes(source.sha256):
                        content = KnownContent(same, source.sha256, source.size_bytes)
                        yield pvalue.TaggedOutput(KNOWN, content)
                    else:
                        work = self.work(same, source)
                        yield from self._guarded(same, source.size_bytes, work)

    def _fetch(
        self,
        track: Track,
        contents: dict[str, tuple[Fetched, list[Track]]],
        kept: contextlib.ExitStack,
    ) -> Iterator[Any]:
        """Add a file to ``contents`` by its hash, and keep the first one's bytes."""
        with contextlib.ExitStack() as stack:
            with self._meter.timed("read"):
                source = stack.enter_context(fetched(track.uri))
            if source.sha256 in contents:
                contents[source.sha256][1].append(track)
            else:
                contents[source.sha256] = source, [track]
                kept.enter_context(stack.pop_all())
        yield from ()

    def _unknown(self, tracks: list[Track], sha256: str) -> list[Track]:
        """Leave out the listings that have a row of these very bytes."""
        if self._known is None:
            return tracks
        fresh = []
        for track in tracks:
            left = tuple(
                listing
                for listing in track.listings
                if not self._known.has_content(track.uri, sha256, listing)
            )
            self._skipped[self.results.done] += len(track.listings) - len(left)
            if left:
                fresh.append(dataclasses.replace(track, listings=left))
        return fresh

    def _guarded(
        self, track: Track, size_bytes: int | None, work: Iterable[Any]
    ) -> Iterator[Output]:
        """Pass on what ``work`` gives; an exception of it becomes a failure of ``track``."""
        try:
            yield from work
        except RunError:
            raise  # not the track's fault: the run stops
        except Exception as error:  # becomes a row of failures/, with its type and message
            if self._over:
                raise  # nor is this
            failure = Failure.of(track, self.results.stage, error)
            yield self._meter.failed(dataclasses.replace(failure, size_bytes=size_bytes))

    def finish_bundle(self) -> Iterator[Output]:
        if number := self._skipped.total():
            count = (SKIPPED, self.results.done), number
            yield pvalue.TaggedOutput(COUNTS, GlobalWindows.windowed_value(count))

    def teardown(self) -> None:
        self._over = True
        self._sandbox.close()
