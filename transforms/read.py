"""ReadFiles: globs, folders and manifests to tracks, each file once.

- A glob means exactly what it matches; ``**`` matches any number of folders, none included.
- A folder means every file under it, except hidden files and the kinds of file that lie beside
  music (``transforms.listing.SIDECARS``).
- A manifest (see transforms.manifest) means its rows.

A file that several inputs name is read once, as one :class:`Track` with all its listings.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from transforms.errors import InputError, Reason, StageError
from transforms.listing import is_folder, match
from transforms.manifest import is_manifest, read_manifest
from transforms.records import Listing, Track
from transforms.stage_metrics import FAILURES, StageMeter

STAGE = "ReadFiles"
DUPLICATES_METRIC = "duplicate_listings"


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


def printable(uri: str) -> str:
    """``uri`` with what is not valid UTF-8 escaped: no table could hold it otherwise."""
    return uri.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True)
class _Mention:
    """One listing of a uri, before those of the same uri are merged."""

    listing: Listing
    size_bytes: int | None = None
    valid_name: bool = True


class _ListDoFn(beam.DoFn):  # type: ignore[misc]
    """An input to (uri, mention) pairs."""

    def __init__(self, root: str | None) -> None:
        self._root = root

    def process(self, path: str) -> Iterator[tuple[str, _Mention]]:
        if not is_manifest(path):
            for metadata in match(path):
                uri = printable(metadata.path)
                yield uri, _Mention(Listing(), metadata.size_in_bytes, uri == metadata.path)
            return
        for row, (stated, listing) in enumerate(read_manifest(path, self._root), start=1):
            # A row without a uri fails in Decode (not_found), under its row number.
            yield stated or f"{path}#row={row}", _Mention(listing)


def _listing_order(listing: Listing) -> tuple[str, str]:
    columns = json.dumps(dict(listing.columns), sort_keys=True, default=str)
    return listing.track_id or "", columns


def merge(uri: str, mentions: list[_Mention]) -> Track:
    """All mentions of one uri as one Track, its listings in an order that no runner changes.

    Raises
    ------
    StageError
        ``unreadable``: the file's name is not valid UTF-8.
    """
    if not all(mention.valid_name for mention in mentions):
        raise StageError(
            Reason.UNREADABLE, "the file's name is not valid UTF-8 (escaped here); rename the file"
        )
    by_order = {_listing_order(mention.listing): mention.listing for mention in mentions}
    listings = [by_order[key] for key in sorted(by_order)]
    stated = [item for item in listings if item.track_id is not None or item.columns]
    sizes = [mention.size_bytes for mention in mentions if mention.size_bytes is not None]
    # A glob's mention adds nothing to a manifest's.
    return Track(uri, max(sizes, default=None), tuple(stated or listings))


class _MergeDoFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self) -> None:
        self._meter = StageMeter(STAGE)
        self._duplicates = Metrics.counter(STAGE, DUPLICATES_METRIC)

    def process(self, element: tuple[str, Iterable[_Mention]]) -> Iterator[Any]:
        uri, mentions = element[0], list(element[1])
        for item in self._meter.run(uri, lambda: [merge(uri, mentions)]):
            if isinstance(item, Track):
                self._duplicates.inc(len(mentions) - len(item.listings))
            yield item


@dataclass
class ReadFiles(beam.PTransform):  # type: ignore[misc]
    """PCollection[str] of inputs to ``.tracks`` (Track) and ``.failures`` (Failure).

    Grouping by uri also spreads the tracks over the workers. Only names cross that shuffle.

    Parameters
    ----------
    root : str, optional
        Folder for relative uris in manifests; each manifest's own when None.
    """

    root: str | None = None

    def expand(self, inputs: beam.PCollection) -> beam.pvalue.DoOutputsTuple:
        return (
            inputs
            | "List" >> beam.ParDo(_ListDoFn(self.root))
            | "ByUri" >> beam.GroupByKey()
            | "Merge" >> beam.ParDo(_MergeDoFn()).with_outputs(FAILURES, main="tracks")
        )
