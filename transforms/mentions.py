"""Mentions of files in a run's inputs, and how they become tracks."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from transforms.errors import Reason, StageError
from transforms.fetch import probe
from transforms.listing import Listed, look_up, match
from transforms.manifest import is_local, is_manifest, read_manifest
from transforms.records import Listing, Track
from transforms.results import LABELS, Results
from transforms.storage.known import Known

_THREADS = 16  # for what waits on storage
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)


def printable(uri: str) -> str:
    """``uri`` with what is not valid UTF-8 escaped: no table could hold it otherwise."""
    return uri.encode("utf-8", "backslashreplace").decode("utf-8")


class Mention(NamedTuple):
    """One listing of a uri, before those of the same uri are merged."""

    uri: str
    size_bytes: int | None = None
    modified_us: int | None = None  # since 1970
    track_id: str | None = None
    columns: Mapping[str, Any] = {}
    valid_name: bool = True

    @property
    def listing(self) -> Listing:
        """What the input says of the file."""
        return Listing(self.track_id, self.columns)


def list_mentions(
    path: str, root: str | None, output: str | None = None, results: Results = LABELS
) -> Iterator[Mention]:
    """All that one input names, in its order; a glob or folder names nothing of the ``output``."""
    if not is_manifest(path):
        own = own_folders(output, results)
        for listed in match(path):
            if listed.path.startswith(own):
                continue
            uri = printable(listed.path)
            valid_name = uri == listed.path
            yield Mention(uri, listed.size_bytes, listed.modified_us, valid_name=valid_name)
        return
    rows = enumerate(read_manifest(path, root, results.columns), start=1)
    with ThreadPoolExecutor(_THREADS) as pool:
        while batch := list(itertools.islice(rows, 1_000)):
            # A row without a uri fails in Decode (not_found), under its row number.
            uris = [stated or f"{path}#row={row}" for row, (stated, _) in batch]
            for listed, (_, (_, listing)) in zip(_look_up_all(uris, pool), batch, strict=True):
                yield Mention(
                    listed.path,
                    listed.size_bytes,
                    listed.modified_us,
                    listing.track_id,
                    listing.columns,
                )


def own_folders(output: str | None, results: Results = LABELS) -> tuple[str, ...]:
    """What a run writes under its output, which may lie inside an input."""
    if output is None:
        return ()
    folder = os.path.abspath(output) if is_local(output) else output
    return tuple(f"{folder}/{name}/" for name in results.folders)


def _look_up_all(uris: Sequence[str], pool: ThreadPoolExecutor) -> Iterable[Listed]:
    if all(map(is_local, uris)):
        return map(look_up, uris)  # quicker than handing it to a thread
    return pool.map(look_up, uris)


def _listing_order(listing: Listing) -> tuple[str, str]:
    columns = json.dumps(dict(listing.columns), sort_keys=True, default=str)
    return listing.track_id or "", columns


def _newness(mention: Mention) -> tuple[float, ...]:
    stated = mention.modified_us, mention.size_bytes
    return tuple(-math.inf if number is None else number for number in stated)


def merge(uri: str, mentions: Sequence[Mention]) -> Track:
    """All mentions of one uri as one Track, its listings in an order that no runner changes."""
    first = max(mentions, key=_newness)
    modified_at = None
    if first.modified_us is not None:
        modified_at = _EPOCH + dt.timedelta(microseconds=first.modified_us)
    if len(mentions) == 1:
        return Track(uri, first.size_bytes, modified_at, (first.listing,))
    by_order = {_listing_order(mention.listing): mention.listing for mention in mentions}
    listings = [by_order[key] for key in sorted(by_order)]
    stated = [item for item in listings if item.track_id is not None or item.columns]
    # A glob's mention adds nothing to a manifest's.
    return Track(uri, first.size_bytes, modified_at, tuple(stated or listings))


def check_name(mentions: Sequence[Mention]) -> None:
    """Raise StageError, ``unreadable``, if the file's name is not valid UTF-8."""
    if not all(mention.valid_name for mention in mentions):
        raise StageError(
            Reason.UNREADABLE, "the file's name is not valid UTF-8 (escaped here); rename the file"
        )


def unknown_part(track: Track, known: Known | None) -> tuple[Track | None, Counter[str]]:
    """Leave out the listings of a track that are known.

    Returns
    -------
    track : Track or None
        With the other listings; None where all are known.
    skipped : Counter
        Known listings by their outcome.
    """
    if known is None:
        return track, Counter()
    outcomes = [known.outcome(track, listing) for listing in track.listings]
    skipped = Counter(outcome for outcome in outcomes if outcome is not None)
    if not skipped:
        return track, skipped
    left = tuple(li for li, out in zip(track.listings, outcomes, strict=True) if out is None)
    return (dataclasses.replace(track, listings=left) if left else None), skipped


def with_copies(tracks: Iterable[Track]) -> Iterator[Track]:
    """Join tracks that look like copies: of one size, with equal bytes in three places."""
    by_size: dict[int | None, list[Track]] = defaultdict(list)
    for track in tracks:
        by_size[track.size_bytes].append(track)
    for size_bytes, same_size in by_size.items():
        if not size_bytes or len(same_size) == 1:
            yield from same_size
            continue
        by_probe: dict[bytes, list[Track]] = defaultdict(list)
        with ThreadPoolExecutor(_THREADS) as pool:
            for track, found in zip(same_size, pool.map(_probe, same_size), strict=True):
                by_probe[found].append(track)
        for group in by_probe.values():
            first, *others = sorted(group, key=lambda track: track.uri)
            yield dataclasses.replace(first, copies=tuple(others))


def _probe(track: Track) -> bytes:
    try:
        return probe(track.uri, track.size_bytes or 0)
    except StageError:  # Decode will say what is wrong; it is like no other
        return track.uri.encode()
