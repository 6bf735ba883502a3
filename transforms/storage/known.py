"""What earlier runs have labelled: the files that a run need not touch again.

Known are the listings whose newest row by the same model and front end is of the same file, and
which have not failed since. Each is kept as digests of 16 bytes, so that a million of them take
some 48 MB, less than one row group of the predictions; these themselves are read in batches.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.errors import FROM_OUTSIDE
from transforms.records import Listing, Track
from transforms.results import LABELS, Results
from transforms.storage.dataset import list_dataset, read_batches
from transforms.storage.extras import extras_of

_BATCH_ROWS = 10_000
_COLUMNS = ["uri", "track_id", "size_bytes", "modified_at", "model_fingerprint",
            "front_end_fingerprint"]  # fmt: skip

Digests = npt.NDArray[np.bytes_]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class KnownRows:
    """Which rows of an output count as known.

    Parameters
    ----------
    output : str
        The output folder of this and earlier runs.
    run_id : str
        Of the run that asks, whose own rows do not count.
    model_fingerprint, front_end_fingerprint : str
        Rows of others do not count.
    extras : frozenset of str
        What the run was asked for (transforms.storage.extras): rows without it do not count.
    resumed_runs : tuple of str
        Interrupted runs that this one goes on with: what failed there counts as well, unless the
        reason may not have been the file's (transforms.errors.FROM_OUTSIDE).
    by_version : bool
        Whether an unchanged size and modification time are enough; else only equal bytes are.
    resumed_only : bool
        Whether only rows of the ``resumed_runs`` count.
    results : Results
        Whose rows count.
    """

    output: str
    run_id: str
    model_fingerprint: str
    front_end_fingerprint: str
    extras: frozenset[str] = frozenset()
    resumed_runs: tuple[str, ...] = ()
    by_version: bool = True
    resumed_only: bool = False
    results: Results = LABELS


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
    done : str
        The outcome of what is labelled.
    """

    def __init__(
        self, labelled: Digests, failed: Digests, by_version: bool, done: str = "labelled"
    ) -> None:
        self._done = done
        self._labelled = labelled
        self._failed = failed
        self._by_version = by_version
        self._seen = np.zeros(len(labelled) + len(failed), dtype=bool)

    def outcome(self, track: Track, listing: Listing) -> str | None:
        """Say ``labelled`` or ``failed`` of a listing whose file is unchanged, else None.

        In place of ``labelled`` the word of the results that were asked for.
        """
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
        return self._done if place < len(self._labelled) else "failed"

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
    newest, contents, failed = _Newest(), [_digests([])], [_digests([])]
    for path in _files(rows, rows.results.dataset):
        for batch in _batches(path, ["content_sha256", rows.results.time_column], rows):
            contents.append(_digests(map(bytes_key, batch["content_sha256"].to_pylist())))
            newest.add_labelled(batch, rows.by_version)
    for path in _files(rows, "failures"):
        for batch in _batches(path, ["reason", "failed_at"], rows):
            newest.add_failed(batch)
            if _is_of(rows.resumed_runs, path):
                failed.append(_failed_keys(batch.filter(_in_the_file(batch["reason"]))))
    done = rows.results.done
    labelled = np.unique(np.concatenate([*contents, *newest.keys()]))
    return Known(labelled, np.unique(np.concatenate(failed)), rows.by_version, done)


class _Newest:
    """Keys of the rows that are the newest of their listing, and are no failures."""

    def __init__(self) -> None:
        self._listings: list[Integers] = [np.array([], dtype=np.int64)]
        self._times: list[Integers] = [np.array([], dtype=np.int64)]
        self._keys: dict[str, list[Digests]] = {"content": [], "version": []}

    def add_labelled(self, batch: pa.RecordBatch, by_version: bool) -> None:
        """Add predictions, each under its listing and under its file."""
        contents, versions = [], []
        hashes = batch["content_sha256"].to_pylist()
        for (uri, size, modified, track_id), sha in zip(_versions(batch), hashes, strict=True):
            for own in _owns(track_id):
                contents.append(content_key(uri, sha, *own))
                fits = by_version and modified is not None
                versions.append(version_key(uri, size, modified, *own) if fits else b"")
        self._add(batch, contents, versions)

    def add_failed(self, batch: pa.RecordBatch) -> None:
        """Add failures, whose keys are none."""
        none = [b"" for *_, track_id in _versions(batch) for _ in _owns(track_id)]
        self._add(batch, none, none)

    def _add(self, batch: pa.RecordBatch, contents: list[bytes], versions: list[bytes]) -> None:
        """Add keys of a batch's rows; the batch's last column says when they were made."""
        listings, times = [], []
        for (uri, *_, track_id), time_us in zip(
            _versions(batch), pc.cast(batch[-1], pa.int64()).to_pylist(), strict=True
        ):
            for own in _owns(track_id):
                digest = _digest("listing", uri, *own)
                listings.append(int.from_bytes(digest[:8], "little", signed=True))
                times.append(time_us)
        self._listings.append(np.array(listings, dtype=np.int64))
        self._times.append(np.array(times, dtype=np.int64))
        self._keys["content"].append(_digests(contents))
        self._keys["version"].append(_digests(versions))

    def keys(self) -> Iterator[Digests]:
        """Yield the keys of each listing's newest rows; several rows may be of one moment."""
        _, listing = np.unique(np.concatenate(self._listings), return_inverse=True)
        times = np.concatenate(self._times)
        newest = np.full(len(times), np.iinfo(np.int64).min)
        np.maximum.at(newest, listing, times)
        is_newest = times == newest[listing]
        for parts in self._keys.values():
            keys = np.concatenate([_digests([]), *parts])
            yield keys[is_newest & (keys != b"")]


def _owns(track_id: str | None) -> tuple[tuple[str, ...], ...]:
    """What a row stands for: its file, and its listing where that has an id."""
    return ((),) if track_id is None else ((), (track_id,))


def _digests(keys: Iterable[bytes]) -> Digests:
    return np.array(list(keys), dtype="S16")


def _files(rows: KnownRows, name: str) -> list[str]:
    """The dataset's files that may count; the run's own do not.

    A cluster may repeat a stage behind the end of all others (Spark, whose executor is gone): it
    must find what it found before.
    """
    paths = [path for path in list_dataset(rows.output, name) if not _is_of((rows.run_id,), path)]
    return [p for p in paths if _is_of(rows.resumed_runs, p)] if rows.resumed_only else paths


def _is_of(run_ids: tuple[str, ...], path: str) -> bool:
    """Whether one of the runs wrote a file of a dataset."""
    return path.rpartition("/")[2].startswith(tuple(f"{run_id}-" for run_id in run_ids))


def _batches(path: str, extra: list[str], rows: KnownRows) -> Iterator[pa.RecordBatch]:
    """The rows of one file that count, ``extra`` columns last."""
    for batch in read_batches(path, _BATCH_ROWS, [*_COLUMNS, *extra]):
        if "content_sha256" in extra and not rows.extras <= extras_of(batch.schema):
            return
        same_model = pc.equal(batch["model_fingerprint"], rows.model_fingerprint)
        same_front_end = pc.equal(batch["front_end_fingerprint"], rows.front_end_fingerprint)
        yield batch.select([*_COLUMNS, *extra]).filter(pc.and_(same_model, same_front_end))


def _versions(batch: pa.RecordBatch) -> Iterator[tuple[str, int | None, int | None, str | None]]:
    modified = pc.cast(batch["modified_at"], pa.int64())
    columns = (batch["uri"], batch["size_bytes"], modified, batch["track_id"])
    return zip(*(column.to_pylist() for column in columns), strict=True)


def _in_the_file(reasons: pa.Array) -> pa.Array:
    others = pa.array([reason.value for reason in FROM_OUTSIDE])
    return pc.invert(pc.is_in(reasons, others))


def _failed_keys(batch: pa.RecordBatch) -> Digests:
    return _digests(
        version_key(uri, size, modified, *(() if track_id is None else (track_id,)))
        for uri, size, modified, track_id in _versions(batch)
    )
