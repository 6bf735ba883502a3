"""What earlier runs have labelled: the files that a run need not touch again.

Known are the listings that have a row by the same model and front end. Each is kept as digests of
16 bytes, so that a million of them take some 48 MB, less than one row group of the predictions;
these themselves are read in batches.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.records import Listing, Track
from transforms.storage.dataset import list_dataset, read_batches

EMBEDDINGS_KEY = "embeddings"
"""Key of the predictions' schema metadata that says whether their rows have embeddings."""

_BATCH_ROWS = 10_000
_COLUMNS = ["uri", "track_id", "size_bytes", "modified_at", "model_fingerprint",
            "front_end_fingerprint"]  # fmt: skip

Digests = npt.NDArray[np.bytes_]


@dataclass(frozen=True)
class KnownRows:
    """Which rows of an output count as known.

    Parameters
    ----------
    output : str
        The output folder of this and earlier runs.
    run_id : str
        Of the run that asks.
    model_fingerprint, front_end_fingerprint : str
        Rows of others do not count.
    embeddings : bool
        Whether only rows with embeddings count.
    resumed_runs : tuple of str
        Interrupted runs that this one goes on with: what failed there counts as well.
    by_version : bool
        Whether an unchanged size and modification time are enough; else only equal bytes are.
    """

    output: str
    run_id: str
    model_fingerprint: str
    front_end_fingerprint: str
    embeddings: bool = False
    resumed_runs: tuple[str, ...] = ()
    by_version: bool = True


def _digest(*parts: object) -> bytes:
    text = "\0".join(map(str, parts))
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def version_key(uri: str, size_bytes: int | None, modified_us: int | None, *listing: str) -> bytes:
    """16 bytes for a file by size and modification time (µs since 1970), or one listing of it."""
    return _digest("version", uri, size_bytes, modified_us, *listing)


def content_key(uri: str, content_sha256: str, *listing: str) -> bytes:
    """16 bytes for a file by its content, or one listing of it."""
    return _digest("content", uri, content_sha256, *listing)


def bytes_key(content_sha256: str) -> bytes:
    """16 bytes for a content, whatever file holds it."""
    return _digest("bytes", content_sha256)


def microseconds(when: dt.datetime | None) -> int | None:
    """Microseconds since 1970."""
    if when is None:
        return None
    return (when - dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)) // dt.timedelta(microseconds=1)


class Known:
    """The rows that a :class:`KnownRows` describes, to be asked for.

    Parameters
    ----------
    labelled, failed : numpy.ndarray
        (n,) sorted digests of 16 bytes.
    by_version : bool
    """

    def __init__(self, labelled: Digests, failed: Digests, by_version: bool) -> None:
        self._labelled = labelled
        self._failed = failed
        self._by_version = by_version
        self._seen = np.zeros(len(labelled) + len(failed), dtype=bool)

    def outcome(self, track: Track, listing: Listing) -> str | None:
        """Say ``labelled`` or ``failed`` of a listing whose file is unchanged, else None."""
        place = self._place(track, listing)
        return None if place is None else self._outcome_at(place)

    def first_outcome(self, track: Track, listing: Listing) -> tuple[str | None, bool]:
        """The same, and whether it is said of this listing for the first time."""
        place = self._place(track, listing)
        if place is None:
            return None, True
        first = not self._seen[place]
        self._seen[place] = True
        return self._outcome_at(place), first

    def _outcome_at(self, place: int) -> str:
        return "labelled" if place < len(self._labelled) else "failed"

    def _place(self, track: Track, listing: Listing) -> int | None:
        """Where the listing's version stands in the labelled ones, or behind them in the failed."""
        version = track.uri, track.size_bytes, microseconds(track.modified_at)
        key = version_key(*version, *_own(listing))
        if (at := _find(self._failed, key)) is not None:
            return len(self._labelled) + at
        if not self._by_version or track.modified_at is None:
            return None
        return _find(self._labelled, key)

    def has_content(self, uri: str, content_sha256: str, listing: Listing) -> bool:
        """Whether a listing has a row of the same bytes."""
        key = content_key(uri, content_sha256, *_own(listing))
        return _find(self._labelled, key) is not None

    def has_bytes(self, content_sha256: str) -> bool:
        """Whether any file's row is of the same bytes."""
        return _find(self._labelled, bytes_key(content_sha256)) is not None


def _own(listing: Listing) -> tuple[str, ...]:
    """What tells a listing from others of its file: a plain one is content with any row."""
    return () if listing.track_id is None else (listing.track_id,)


def _find(digests: Digests, digest: bytes) -> int | None:
    at = int(digests.searchsorted(digest))  # the method is quicker than numpy's function
    # numpy drops zeros at the end of a string of bytes
    return at if at < len(digests) and digests[at] == digest.rstrip(b"\0") else None


@functools.lru_cache(maxsize=1)  # stages of one run that share a process share it
def load_known(rows: KnownRows) -> Known:
    """Read the datasets under ``rows.output``.

    Raises
    ------
    OSError, pyarrow.ArrowInvalid
        If one of their files cannot be read.
    """
    labelled, failed = [_no_digests()], [_no_digests()]
    for path in list_dataset(rows.output, "predictions"):
        labelled += [
            _labelled_keys(batch, rows) for batch in _batches(path, "content_sha256", rows)
        ]
    of_resumed = tuple(f"{run_id}-" for run_id in rows.resumed_runs)
    for path in list_dataset(rows.output, "failures") if of_resumed else ():
        if path.rpartition("/")[2].startswith(of_resumed):
            failed += [_failed_keys(batch) for batch in _batches(path, "reason", rows)]
    return Known(
        np.unique(np.concatenate(labelled)), np.unique(np.concatenate(failed)), rows.by_version
    )


def _no_digests() -> Digests:
    return np.array([], dtype="S16")


def _batches(path: str, extra: str, rows: KnownRows) -> Iterator[pa.RecordBatch]:
    """The rows of one file that count."""
    for batch in read_batches(path, _BATCH_ROWS, [*_COLUMNS, extra]):
        if extra == "content_sha256" and rows.embeddings and not has_embeddings(batch):
            return
        same_model = pc.equal(batch["model_fingerprint"], rows.model_fingerprint)
        same_front_end = pc.equal(batch["front_end_fingerprint"], rows.front_end_fingerprint)
        yield batch.filter(pc.and_(same_model, same_front_end))


def has_embeddings(batch: pa.RecordBatch) -> bool:
    """Whether predictions come from a run that was asked for embeddings."""
    return (batch.schema.metadata or {}).get(EMBEDDINGS_KEY.encode()) == b"true"


def _versions(batch: pa.RecordBatch) -> Iterator[tuple[str, int | None, int | None, str | None]]:
    modified = pc.cast(batch["modified_at"], pa.int64())
    columns = (batch["uri"], batch["size_bytes"], modified, batch["track_id"])
    return zip(*(column.to_pylist() for column in columns), strict=True)


def _labelled_keys(batch: pa.RecordBatch, rows: KnownRows) -> Digests:
    keys = []
    hashes = batch["content_sha256"].to_pylist()
    for (uri, size, modified, track_id), sha in zip(_versions(batch), hashes, strict=True):
        keys.append(bytes_key(sha))
        for own in ((), (track_id,)) if track_id is not None else ((),):
            keys.append(content_key(uri, sha, *own))
            if rows.by_version and modified is not None:
                keys.append(version_key(uri, size, modified, *own))
    return np.array(keys, dtype="S16")


def _failed_keys(batch: pa.RecordBatch) -> Digests:
    keys = [
        version_key(uri, size, modified, *(() if track_id is None else (track_id,)))
        for uri, size, modified, track_id in _versions(batch)
    ]
    return np.array(keys, dtype="S16")
