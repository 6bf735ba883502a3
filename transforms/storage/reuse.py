"""Rows of earlier runs for files that hold the very same bytes: moved, renamed, added twice.

Decode finds by its hash that a file's content has a row by the same model and front end; what it
hands on is a prediction without scores, of kind ``copies``. Publishing fills these in from the
predictions and windows of earlier runs, which it reads in batches.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from transforms.provenance import Provenance
from transforms.records import (
    LISTING_COLUMN,
    WINDOWS_COLUMN,
    KnownContent,
    WindowRow,
    row_dict,
    schema_of,
)
from transforms.results import LABELS, Results
from transforms.storage.dataset import Target, list_dataset, read_batches
from transforms.storage.extras import EXTRA_COLUMNS, EXTRAS, extras_of

_OF_FILE = ("uri", "track_id", "size_bytes", "modified_at")  # not taken from the other row
_BATCH_ROWS = 2_000

Row = dict[str, Any]


def copy_rows(
    content: KnownContent, provenance: Provenance, results: Results = LABELS
) -> list[Row]:
    """The journal's rows of files whose bytes are known: predictions without scores."""
    now = dt.datetime.now(dt.timezone.utc)
    return [
        {
            **dict.fromkeys(schema_of(results.row_class).names),
            **row_dict(provenance),
            **listing.columns,
            "uri": track.uri,
            "track_id": listing.track_id,
            "content_sha256": content.content_sha256,
            "size_bytes": content.size_bytes,
            "modified_at": track.modified_at,
            results.time_column: now,
            LISTING_COLUMN: number,
            WINDOWS_COLUMN: [],
        }
        for track in content.track.members
        for number, listing in enumerate(track.listings)
    ]


class Reuse:
    """Fills in rows from those of equal bytes.

    Parameters
    ----------
    target : Target
        Whose output is searched; the rows of its own run are not.
    copies : sequence of dict
        Journalled predictions without scores.
    extras : set of str
        What the run was asked for (transforms.storage.extras): rows without it will not do.
    results : Results
        Whose rows they are.
    """

    def __init__(
        self,
        target: Target,
        copies: Sequence[Row],
        *,
        extras: Set[str],
        results: Results = LABELS,
    ) -> None:
        self._target = target
        self._extras = extras
        self._results = results
        self._columns = schema_of(results.row_class).names
        not_asked = (columns for name, columns in EXTRAS.items() if name not in extras)
        left_out = set(itertools.chain.from_iterable(not_asked))
        self._left_out = dict.fromkeys(name for name in self._columns if name in left_out)
        self._wanted: dict[str, list[Row]] = defaultdict(list)
        for row in copies:
            self._wanted[row["content_sha256"]].append(row)
        self._sources: dict[tuple[str, str], list[str]] = defaultdict(list)  # run, uri: new uris

    @property
    def missing(self) -> list[Row]:
        """Copies for which no row was found; complete when :meth:`predictions` has ended."""
        return [row for rows in self._wanted.values() for row in rows]

    def predictions(self) -> Iterator[list[Row]]:
        """Yield the copies with all that the other rows say, some at a time."""
        for path in self._earlier(self._results.dataset) if self._wanted else ():
            wanted = pa.array(list(self._wanted), pa.string())
            for batch in read_batches(path, _BATCH_ROWS, self._columns, EXTRA_COLUMNS):
                if not self._wanted:
                    return
                if not self._extras <= extras_of(batch.schema):
                    break
                hit = pc.is_in(batch["content_sha256"], wanted)
                yield [
                    filled
                    for source in batch.filter(hit).to_pylist()
                    for filled in self._filled(source)
                ]

    def _filled(self, source: Row) -> Iterator[Row]:
        copies = self._wanted.get(source["content_sha256"], [])
        if not copies or not self._fits(source, copies[0]):
            return
        known = {name: source.get(name) for name in self._columns}
        for copy in self._wanted.pop(source["content_sha256"]):
            made = {name: copy[name] for name in (*_OF_FILE, "run_id", self._results.time_column)}
            made |= self._left_out
            uris = self._sources[source["run_id"], source["uri"]]
            if copy["uri"] not in uris:  # two listings of one file have its windows once
                uris.append(copy["uri"])
            yield {**copy, **known, **made}

    def _fits(self, source: Row, copy: Row) -> bool:
        same = ("model_fingerprint", "front_end_fingerprint")
        return all(source[name] == copy[name] for name in same)

    def windows(self) -> Iterator[list[Row]]:
        """Yield the windows behind what :meth:`predictions` gave, some at a time."""
        runs = pa.array({run for run, _ in self._sources}, pa.string())
        uris = pa.array({uri for _, uri in self._sources}, pa.string())
        for path in self._earlier("windows") if self._sources else ():
            for batch in read_batches(path, _BATCH_ROWS, schema_of(WindowRow).names):
                hit = pc.and_(pc.is_in(batch["run_id"], runs), pc.is_in(batch["uri"], uris))
                yield [
                    {**row, "uri": uri, "run_id": self._target.run_id}
                    for row in batch.filter(hit).to_pylist()
                    for uri in self._sources.get((row["run_id"], row["uri"]), ())
                ]

    def _earlier(self, name: str) -> list[str]:
        own = f"{self._target.run_id}-"
        paths = list_dataset(self._target.output, name)
        return [path for path in paths if not path.rpartition("/")[2].startswith(own)]


def to_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of ``schema``; further keys are left out."""
    return pa.Table.from_pylist([{n: row[n] for n in schema.names} for row in rows], schema)
