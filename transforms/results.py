"""What programs make of tracks: the names under which the shared machinery keeps their results.

Journal, datasets, books and the search for what earlier runs have done are the same for labelling
and for enhancement; a :class:`Results` says what differs.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from dataclasses import dataclass
from typing import Annotated

import pyarrow as pa

from transforms.records import FailureRow, PredictionRow, schema_of

RESULTS_KEY = "results"
"""Key of a schema's metadata with the name of its :class:`Results`; labelling's has none."""

_TIMESTAMP = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class EnhancedRow:
    """One enhanced track: a row of ``OUTPUT/enhanced``."""

    uri: Annotated[str, pa.string()]
    track_id: Annotated[str | None, pa.string()]
    content_sha256: Annotated[str, pa.string()]
    size_bytes: Annotated[int, pa.int64()]
    modified_at: Annotated[dt.datetime | None, _TIMESTAMP]
    output: Annotated[str, pa.string()]  # the enhanced file
    output_sha256: Annotated[str, pa.string()]
    output_size_bytes: Annotated[int, pa.int64()]
    duration_s: Annotated[float, pa.float64()]
    sample_rate_hz: Annotated[int, pa.int32()]
    channels: Annotated[int, pa.int32()]
    container: Annotated[str, pa.string()]
    codec: Annotated[str, pa.string()]
    decoder: Annotated[str, pa.string()]
    decode_warnings: Annotated[list[str], pa.list_(pa.string())]
    dc_offset: Annotated[list[float], pa.list_(pa.float64())]  # of each channel, full scale is 1
    rms_before: Annotated[float, pa.float64()]  # over all channels, the DC offset removed
    rms_after: Annotated[float, pa.float64()]
    clipped_samples: Annotated[int, pa.int64()]  # of the enhanced sound, beyond full scale
    method: Annotated[str, pa.string()]
    reconstruct: Annotated[str, pa.string()]
    model_fingerprint: Annotated[str, pa.string()]  # "none" where no model was asked
    front_end_fingerprint: Annotated[str, pa.string()]
    pipeline_version: Annotated[str, pa.string()]
    run_id: Annotated[str, pa.string()]
    enhanced_at: Annotated[dt.datetime, _TIMESTAMP]


@dataclass(frozen=True)
class Results:
    """The names of one program's results."""

    done: str  # what a finished input is: an outcome in the books
    doing: str  # for a person who waits
    dataset: str  # of the rows of finished tracks
    row_class: type  # of these rows
    time_column: str  # when a row was made
    kind_column: str  # by which the books count what is done
    stage: str  # which finds that a file's bytes have a row already
    has_windows: bool  # whether a track's windows are a dataset, too
    folders: tuple[str, ...]  # under OUTPUT, none of whose files are inputs

    @property
    def columns(self) -> frozenset[str]:
        """Names that a manifest's own columns cannot have in the results."""
        rows = (self.row_class, FailureRow)
        return frozenset(field.name for row in rows for field in dataclasses.fields(row))

    def schema(self, *, extra: pa.Schema | None = None) -> pa.Schema:
        """Schema of the rows, marked as these results'; ``extra`` are a manifest's columns."""
        schema = schema_of(self.row_class, extra=extra)
        return schema.with_metadata({**(schema.metadata or {}), RESULTS_KEY: self.done})


_SHARED_FOLDERS = ("predictions", "windows", "failures", "journal", "json", "runs")
ENHANCED_AUDIO = "enhanced_audio"
"""Folder of the enhanced files. Not a name that a music folder is likely to have already."""

LABELS = Results(
    done="labelled",
    doing="labelling",
    dataset="predictions",
    row_class=PredictionRow,
    time_column="labelled_at",
    kind_column="label",
    stage="Decode",
    has_windows=True,
    folders=_SHARED_FOLDERS,
)
ENHANCED = Results(
    done="enhanced",
    doing="enhancing",
    dataset="enhanced",
    row_class=EnhancedRow,
    time_column="enhanced_at",
    kind_column="method",
    stage="Enhance",
    has_windows=False,
    folders=(*_SHARED_FOLDERS, "enhanced", ENHANCED_AUDIO),
)
_ALL = (LABELS, ENHANCED)


def results_named(done: str | None) -> Results:
    """The results of a name; those of labelling where none is stated."""
    return next((results for results in _ALL if results.done == done), LABELS)


def results_of(schema: pa.Schema) -> Results:
    """Whose rows a schema describes, by its metadata: a manifest may bring any column."""
    named = (schema.metadata or {}).get(RESULTS_KEY.encode())
    return results_named(None if named is None else named.decode())
