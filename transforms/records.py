"""What travels between the stages, and the Arrow schemas of what is written.

Every record is a frozen dataclass. The row classes (``PredictionRow``, ``WindowRow``,
``FailureRow``) carry their Arrow type in the annotation, and :func:`schema_of` derives the
schema from there, so that a column is stated once.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias, get_args, get_type_hints

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.errors import Reason, StageError

FloatArray: TypeAlias = npt.NDArray[np.float32]

UNKNOWN_LABEL = "unknown"
"""Label of a track whose best score stays under the checkpoint's threshold."""


@dataclass(frozen=True)
class Listing:
    """One mention of a track in an input: a file that a glob found, or a row of a manifest."""

    track_id: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)  # the manifest's other columns


@dataclass(frozen=True)
class Track:
    """One audio file to be labelled, with every listing that names it."""

    uri: str
    size_bytes: int | None = None  # None: not known before it is read
    modified_at: dt.datetime | None = None  # UTC, when listed; None: the file system does not say
    listings: tuple[Listing, ...] = (Listing(),)
    copies: tuple[Track, ...] = ()
    """Further files: likely to hold the same bytes (ReadFiles), surely so (behind Decode)."""

    @property
    def members(self) -> tuple[Track, ...]:
        """The track itself and its copies."""
        return (self, *self.copies)


@dataclass(frozen=True, kw_only=True)
class TrackFeatures:
    """What a track sounds like, as numbers; transforms.features says how each is made.

    None is what cannot be told.
    """

    loudness_lufs: float | None = None  # integrated, of the whole track
    true_peak_dbtp: float | None = (
        None  # of the whole track; above 0 where it clips between samples
    )
    # The others are of the first features_seconds, in mono.
    tempo_bpm: float | None = None
    key: str | None = None  # "A minor", "C# major": twelve tonics, written with sharps
    key_confidence: float | None = None  # correlation with the key's profile, 0 to 1
    spectral_centroid_hz: float | None = None
    spectral_bandwidth_hz: float | None = None
    spectral_rolloff_hz: float | None = None
    zero_crossing_rate: float | None = None  # of a sample, 0 to 1
    rms: float | None = None  # full scale is 1.0
    mfcc_mean: list[float] | None = None  # (20,)
    mfcc_std: list[float] | None = None  # (20,)
    chroma_mean: list[float] | None = None  # (12,), C to B, 0 to 1
    features_seconds: float


@dataclass(frozen=True)
class TrackFacts:
    """What decoding found out about one file; travels on the track's last window."""

    content_sha256: str
    size_bytes: int
    duration_s: float  # decoded, never from a header
    sample_rate_hz: int
    channels: int
    container: str
    codec: str
    decoder: str  # "soundfile", "pyav", or "soundfile+pyav" where PyAV went on
    window_count: int
    decode_warnings: tuple[str, ...] = ()
    features: TrackFeatures | None = None  # when asked for


@dataclass(frozen=True)
class Window:
    """What every record of a window says."""

    track: Track
    window_index: int
    start_s: float  # of the window itself, without a margin
    end_s: float  # at most the end of the track

    @property
    def uri(self) -> str:
        """The track's uri."""
        return self.track.uri


@dataclass(frozen=True)
class AudioWindow(Window):
    """A window as decoded: the file's own rate, with the resampler's margin."""

    sample_rate_hz: int
    first_frame: int  # the track's frame at samples[0]; see transforms.windows
    samples: FloatArray  # (frames, channels), full scale is 1.0
    facts: TrackFacts | None = None  # on the track's last window


@dataclass(frozen=True)
class PreparedWindow(Window):
    """A window ready for the spectrogram: mono, at the front end's rate."""

    content_s: float  # seconds of sound in samples, padding excluded: the window's weight
    samples: FloatArray  # (samples,), a fixed length unless the front end squeezes whole tracks
    facts: TrackFacts | None = None


@dataclass(frozen=True)
class LogMelWindow(Window):
    """A window as the model sees it."""

    content_s: float
    image: FloatArray  # (image_height, image_width), -1 (top_db under the reference) to 1 (it)
    facts: TrackFacts | None = None
    made_s: float = 0.0  # time.monotonic() of its process


@dataclass(frozen=True)
class WindowPrediction(Window):
    """What the model says of one window."""

    content_s: float
    log_probs: FloatArray  # (labels,), natural logarithms, normalised
    embedding: FloatArray | None = None  # (hidden,)
    facts: TrackFacts | None = None


@dataclass(frozen=True)
class KnownContent:
    """A file, copies included, whose very bytes an earlier run has labelled under another uri."""

    track: Track
    content_sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Failure:
    """One input, copies included, that a stage could not handle."""

    track: Track
    stage: str
    reason: Reason
    message: str
    size_bytes: int | None = None  # as read, where it was

    @classmethod
    def of(cls, track: Track, stage: str, error: Exception) -> Failure:
        """The failure that ``error`` stands for; what is not a StageError is an internal error."""
        if isinstance(error, StageError):
            return cls(track, stage, error.reason, error.message)
        return cls(track, stage, Reason.INTERNAL_ERROR, f"{type(error).__name__}: {error}")


_TIMESTAMP = pa.timestamp("us", tz="UTC")
_TOP_K = pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())]))
_FLOATS = pa.list_(pa.float32())


@dataclass(frozen=True)
class PredictionRow:
    """One labelled track: a row of ``OUTPUT/predictions``."""

    uri: Annotated[str, pa.string()]
    track_id: Annotated[str | None, pa.string()]
    content_sha256: Annotated[str, pa.string()]
    size_bytes: Annotated[int, pa.int64()]
    modified_at: Annotated[dt.datetime | None, _TIMESTAMP]
    duration_s: Annotated[float, pa.float64()]
    sample_rate_hz: Annotated[int, pa.int32()]
    channels: Annotated[int, pa.int32()]
    container: Annotated[str, pa.string()]
    codec: Annotated[str, pa.string()]
    decoder: Annotated[str, pa.string()]
    decode_warnings: Annotated[list[str], pa.list_(pa.string())]
    label: Annotated[str, pa.string()]
    confidence: Annotated[float, pa.float32()]
    top_k: Annotated[list[dict[str, Any]], _TOP_K]
    scores: Annotated[list[float], _FLOATS]  # label order: the schema's metadata, key "labels"
    window_count: Annotated[int, pa.int32()]
    embedding: Annotated[list[float] | None, _FLOATS]
    loudness_lufs: Annotated[float | None, pa.float32()]
    true_peak_dbtp: Annotated[float | None, pa.float32()]
    tempo_bpm: Annotated[float | None, pa.float32()]
    key: Annotated[str | None, pa.string()]
    key_confidence: Annotated[float | None, pa.float32()]
    spectral_centroid_hz: Annotated[float | None, pa.float32()]
    spectral_bandwidth_hz: Annotated[float | None, pa.float32()]
    spectral_rolloff_hz: Annotated[float | None, pa.float32()]
    zero_crossing_rate: Annotated[float | None, pa.float32()]
    rms: Annotated[float | None, pa.float32()]
    mfcc_mean: Annotated[list[float] | None, _FLOATS]
    mfcc_std: Annotated[list[float] | None, _FLOATS]
    chroma_mean: Annotated[list[float] | None, _FLOATS]
    features_seconds: Annotated[float | None, pa.float64()]
    model_fingerprint: Annotated[str, pa.string()]
    front_end_fingerprint: Annotated[str, pa.string()]
    pipeline_version: Annotated[str, pa.string()]
    run_id: Annotated[str, pa.string()]
    labelled_at: Annotated[dt.datetime, _TIMESTAMP]


@dataclass(frozen=True)
class WindowRow:
    """One window of a labelled track: a row of ``OUTPUT/windows``."""

    uri: Annotated[str, pa.string()]
    content_sha256: Annotated[str, pa.string()]
    window_index: Annotated[int, pa.int32()]
    start_s: Annotated[float, pa.float64()]
    end_s: Annotated[float, pa.float64()]
    label: Annotated[str, pa.string()]
    confidence: Annotated[float, pa.float32()]
    scores: Annotated[list[float], _FLOATS]
    run_id: Annotated[str, pa.string()]


@dataclass(frozen=True)
class FailureRow:
    """One failed input: a row of ``OUTPUT/failures``."""

    uri: Annotated[str, pa.string()]
    track_id: Annotated[str | None, pa.string()]
    size_bytes: Annotated[int | None, pa.int64()]
    modified_at: Annotated[dt.datetime | None, _TIMESTAMP]
    stage: Annotated[str, pa.string()]
    reason: Annotated[str, pa.string()]
    message: Annotated[str, pa.string()]
    model_fingerprint: Annotated[str, pa.string()]
    front_end_fingerprint: Annotated[str, pa.string()]
    pipeline_version: Annotated[str, pa.string()]
    run_id: Annotated[str, pa.string()]
    failed_at: Annotated[dt.datetime, _TIMESTAMP]


def schema_of(
    row_class: type,
    *,
    labels: Sequence[str] = (),
    extra: pa.Schema | None = None,
) -> pa.Schema:
    """The Arrow schema of a row class.

    Parameters
    ----------
    row_class : type
        ``PredictionRow``, ``WindowRow`` or ``FailureRow``.
    labels : sequence of str
        The model's labels in the order of ``scores``; stored as JSON under the metadata key
        ``labels``.
    extra : pyarrow.Schema, optional
        Further columns (a manifest's own), appended behind the row's.

    Returns
    -------
    pyarrow.Schema
    """
    hints = get_type_hints(row_class, include_extras=True)
    names = [f.name for f in dataclasses.fields(row_class)]
    columns = [pa.field(name, get_args(hints[name])[1]) for name in names]
    if extra is not None:
        columns += list(extra)
    metadata = {"labels": json.dumps(list(labels), ensure_ascii=False)} if labels else None
    return pa.schema(columns, metadata=metadata)


WINDOWS_COLUMN, LISTING_COLUMN = "_windows", "_listing"
"""Columns of the journal alone: a track's window rows, and which of its listings a row is for."""


def journal_schema(rows: pa.Schema) -> pa.Schema:
    """The schema of predictions or failures in the journal.

    Behind the row's own columns the number of the listing; behind a prediction's its windows.
    """
    schema = rows.append(pa.field(LISTING_COLUMN, pa.int32()))
    if "label" not in rows.names or b"results" in (rows.metadata or {}):
        return schema  # failures, or the results of another program (transforms.results)
    of_track = {"uri", "content_sha256", "run_id"}
    nested = pa.struct([column for column in schema_of(WindowRow) if column.name not in of_track])
    return schema.append(pa.field(WINDOWS_COLUMN, pa.list_(nested)))


def row_dict(row: Any) -> dict[str, Any]:
    """A row dataclass as the flat dictionary that Arrow takes (no deep copy)."""
    return {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
