"""ReadFiles: globs, folders and manifests to tracks, each file once.

- A glob means exactly what it matches; ``**`` matches any number of folders, none included.
- A folder means every file under it, except hidden files and the kinds of file that lie beside
  music (``transforms.listing.SIDECARS``).
- A manifest (see transforms.manifest) means its rows.

A file that several inputs name is read once, as one :class:`Track` with all its listings. Files
that are likely to hold the same bytes come as one Track with ``copies``. What an earlier run has
labelled, and is unchanged, does not come at all (see transforms.storage.known).

All that crosses a shuffle is names, in chunks: by uri, so that all mentions of a file meet, and by
size, so that copies do. To the workers that decode go only the names of files in the journal, each
with a slice of the tracks (see transforms.storage.slices): a runner may keep what crosses a shuffle
in memory until the run ends.
"""

from __future__ import annotations

import itertools
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows

from transforms.books import LISTED, SKIPPED
from transforms.errors import InputError, StageError
from transforms.journal import Kind, commit_count
from transforms.listing import is_folder, match
from transforms.manifest import is_manifest
from transforms.mentions import (
    Mention,
    check_name,
    list_mentions,
    merge,
    unknown_part,
    with_copies,
)
from transforms.records import Failure, Track
from transforms.results import LABELS, Results
from transforms.spread import Spread
from transforms.stage_metrics import FAILURES, StageMeter
from transforms.storage.known import Known, KnownRows, load_known
from transforms.storage.slices import to_line, to_track

STAGE = "ReadFiles"
DUPLICATES_METRIC = "duplicate_listings"
COUNTS = "counts"

_BUCKETS, _CHUNK = 256, 64  # held in front of a shuffle: at most the product


def check_inputs(inputs: Iterable[str]) -> None:
    """Fail before any work if an input that is no manifest matches nothing.

    Raises
    ------
    InputError
        Naming the first such input.
    """
    for path in inputs:
        if is_manifest(path):
            continue
        if next(match(path), None) is None:
            what = "holds no audio files" if is_folder(path) else "matches nothing"
            raise InputError(
                f"--input={path} {what}; give a glob in quotes ('music/**/*.mp3'), a folder or "
                "a manifest (.csv, .jsonl, .parquet)"
            )


class _Sieve:
    """The known rows, and the counts of what is listed and of what they make needless."""

    def __init__(self, rows: KnownRows | None, journal: str | None) -> None:
        self._rows = rows
        self._journal = journal
        self._counts: Counter[tuple[str, str]] = Counter()
        self.known: Known | None = None

    def load(self) -> None:
        """Read the known rows, if there are to be any."""
        self.known = None if self._rows is None else load_known(self._rows)

    def count(self, listed: int, skipped: Counter[str]) -> None:
        """Note listings, and by outcome those that are known."""
        self._counts[LISTED, ""] += listed
        for outcome, number in skipped.items():
            self._counts[SKIPPED, outcome] += number

    def finish(self) -> Iterator[beam.pvalue.TaggedOutput]:
        """Hand the counts out, and leave them in the journal for the progress."""
        counts, self._counts = self._counts, Counter()
        for count in counts.items():
            yield beam.pvalue.TaggedOutput(COUNTS, GlobalWindows.windowed_value(count))
        kinds: tuple[Kind, ...] = ("listed", "skipped")
        for kind in kinds:
            number = sum(n for (outcome, _), n in counts.items() if outcome == kind)
            if number and self._journal is not None:
                commit_count(self._journal, kind, number)


class _Chunks:
    """Items by bucket, handed out some at a time: a shuffle costs by the element."""

    def __init__(self) -> None:
        self._held: dict[int, list[Any]] = defaultdict(list)

    def add(self, bucket: int, item: Any) -> Iterator[tuple[int, list[Any]]]:
        """Take an item; yield its chunk when that is full."""
        self._held[bucket].append(item)
        if len(self._held[bucket]) >= _CHUNK:
            yield bucket, self._held.pop(bucket)

    def rest(self) -> Iterator[tuple[int, list[Any]]]:
        """Yield the chunks that are not full."""
        held, self._held = self._held, defaultdict(list)
        yield from held.items()


class _ListDoFn(beam.DoFn):  # type: ignore[misc]
    """An input to (bucket, mentions) pairs, as plain tuples: Beam encodes these without pickle."""

    def __init__(
        self, root: str | None, output: str | None, sieve: _Sieve, results: Results
    ) -> None:
        self._root = root
        self._output = output
        self._results = results
        self._sieve = sieve
        self._duplicates = Metrics.counter(STAGE, DUPLICATES_METRIC)

    def setup(self) -> None:
        self._sieve.load()

    def process(self, path: str) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
        chunks = _Chunks()
        for mention in list_mentions(path, self._root, self._output, self._results):
            if not self._is_known(mention):
                yield from chunks.add(_bucket(mention.uri), tuple(mention))
        yield from chunks.rest()

    def _is_known(self, mention: Mention) -> bool:
        distinct = mention.track_id is not None or not mention.columns
        if self._sieve.known is None or not mention.valid_name or not distinct:
            return False
        track = merge(mention.uri, [mention])
        outcome, first = self._sieve.known.first_outcome(track, mention.listing)
        if outcome is not None and first:
            self._sieve.count(1, Counter([outcome]))
        elif outcome is not None:
            self._duplicates.inc()
        return outcome is not None

    def finish_bundle(self) -> Iterator[Any]:
        yield from self._sieve.finish()


def _bucket(text: str) -> int:
    return zlib.crc32(text.encode()) % _BUCKETS


class _MergeDoFn(beam.DoFn):  # type: ignore[misc]
    """A bucket of mentions to the tracks in it that are not known.

    As chunks of lines (see transforms.storage.slices), by the bucket of their size.
    """

    _chunks: _Chunks  # of the bundle

    def __init__(self, sieve: _Sieve) -> None:
        self._sieve = sieve
        self._meter = StageMeter(STAGE)
        self._duplicates = Metrics.counter(STAGE, DUPLICATES_METRIC)

    def setup(self) -> None:
        self._sieve.load()

    def start_bundle(self) -> None:
        self._chunks = _Chunks()

    def process(self, element: tuple[int, Iterable[list[tuple[Any, ...]]]]) -> Iterator[Any]:
        by_uri: dict[str, list[Mention]] = defaultdict(list)
        for mention in itertools.starmap(Mention, itertools.chain.from_iterable(element[1])):
            by_uri[mention.uri].append(mention)
        for uri, mentions in by_uri.items():
            found = self._merged(uri, mentions)
            if isinstance(found, Failure):
                yield self._meter.failed(found)
            elif found is not None:
                # Files without a size are no copies: they need not meet, and may be all there are.
                bucket = _bucket(str(found.size_bytes or found.uri))
                yield from self._chunks.add(bucket, to_line(found))

    def _merged(self, uri: str, mentions: list[Mention]) -> Track | Failure | None:
        track = merge(uri, mentions)
        listed = len(track.listings)
        self._duplicates.inc(len(mentions) - listed)
        try:
            check_name(mentions)
        except StageError as error:
            self._sieve.count(listed, Counter())
            return Failure.of(track, STAGE, error)
        left, skipped = unknown_part(track, self._sieve.known)
        self._sieve.count(listed, skipped)
        return left

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(GlobalWindows.windowed_value, self._chunks.rest())
        yield from self._sieve.finish()


class _CopiesDoFn(beam.DoFn):  # type: ignore[misc]
    """Lines of tracks of some sizes to tracks with their copies."""

    def __init__(self) -> None:
        self._meter = StageMeter(STAGE)

    def process(self, element: tuple[int, Iterable[list[str]]]) -> Iterator[Track]:
        tracks = map(to_track, itertools.chain.from_iterable(element[1]))
        yield from self._meter.count(lambda: with_copies(tracks))


@dataclass
class ReadFiles(beam.PTransform):  # type: ignore[misc]
    """PCollection[str] of inputs to ``["tracks"]`` (Track), ``["failures"]`` and ``["counts"]``.

    Counts are of listings, listed and skipped (see transforms.books).

    Parameters
    ----------
    root : str, optional
        Folder for relative uris in manifests; each manifest's own when None.
    known : KnownRows, optional
        What need not be labelled again; nothing is known when None.
    journal : str, optional
        Folder where the counts are left for the run's progress, and slices of the tracks for the
        workers. Without one the tracks themselves cross the last shuffle.
    one_input : bool
        Whether there is but one input. No other can add to what it says of a file, so that what
        is known is left out in front of the shuffle.
    output : str, optional
        The run's output folder, none of whose own files are inputs.
    results : Results
        What the run makes of the tracks.
    """

    root: str | None = None
    known: KnownRows | None = None
    journal: str | None = None
    one_input: bool = False
    output: str | None = None
    results: Results = LABELS

    def expand(self, inputs: beam.PCollection) -> dict[str, beam.PCollection]:
        in_front = _Sieve(self.known if self.one_input else None, self.journal)
        listed = inputs | "List" >> beam.ParDo(
            _ListDoFn(self.root, self.output, in_front, self.results)
        ).with_outputs(COUNTS, main="mentions")
        merged = (
            listed["mentions"]
            | "ByUri" >> beam.GroupByKey()
            | "Merge"
            >> beam.ParDo(_MergeDoFn(_Sieve(self.known, self.journal))).with_outputs(
                FAILURES, COUNTS, main="tracks"
            )
        )
        spread = beam.Reshuffle() if self.journal is None else Spread(STAGE, self.journal)
        tracks = (
            merged["tracks"]
            | "BySize" >> beam.GroupByKey()
            | "Copies" >> beam.ParDo(_CopiesDoFn())
            | "Spread" >> spread
        )
        return {
            "tracks": tracks,
            FAILURES: merged[FAILURES],
            COUNTS: (listed[COUNTS], merged[COUNTS]) | beam.Flatten(),
        }
