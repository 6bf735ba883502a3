from __future__ import annotations

import dataclasses
import datetime as dt
import io
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transforms import records
from transforms.errors import Reason, StageError
from transforms.records import (
    LISTING_COLUMN,
    WINDOWS_COLUMN,
    AudioWindow,
    Failure,
    FailureRow,
    Listing,
    PredictionRow,
    Track,
    WindowPrediction,
    WindowRow,
    journal_schema,
    row_dict,
    schema_of,
)

NOON = dt.datetime(2024, 5, 17, 12, 0, 0, 123_456, tzinfo=dt.timezone.utc)
A = Track("a.mp3", 5, NOON)

PREDICTION = PredictionRow(
    uri="s3://bucket/Björk – Jóga.flac", track_id=None, content_sha256="c0ffee", size_bytes=2**40,
    modified_at=NOON,
    duration_s=301.25, sample_rate_hz=192_000, channels=8, container="FLAC", codec="FLAC",
    decoder="soundfile", decode_warnings=[], label="unknown", confidence=0.25,
    top_k=[{"label": "pop", "score": 0.25}], scores=[0.25, 0.75], window_count=10, embedding=None,
    loudness_lufs=-9.5, true_peak_dbtp=0.25, tempo_bpm=120.0, key="C# minor", key_confidence=0.75,
    spectral_centroid_hz=2048.0, spectral_bandwidth_hz=1024.0, spectral_rolloff_hz=4096.0,
    zero_crossing_rate=0.125, rms=0.25, mfcc_mean=[-100.0, 0.5], mfcc_std=[8.0, 0.25],
    chroma_mean=None, features_seconds=300.0,
    model_fingerprint="m", front_end_fingerprint="f", pipeline_version="1.0", run_id="r",
    labelled_at=NOON,
)  # fmt: skip
WINDOW = WindowRow("a.mp3", "c0ffee", 0, 0.0, 30.0, "pop", 0.5, [0.5, 0.25], "r")
FAILURE = FailureRow(
    "a.mp3", None, None, None, "Decode", "corrupt", "why", "m", "f", "1.0", "r", NOON
)

# As docs/output.md and users' queries have them: name and type.
TEXT, REAL, SCORE = "string", "double", "float"
TIME = "timestamp[us, tz=UTC]"
COLUMNS = {
    PredictionRow: {
        "uri": TEXT, "track_id": TEXT, "content_sha256": TEXT, "size_bytes": "int64",
        "modified_at": TIME, "duration_s": REAL,
        "sample_rate_hz": "int32", "channels": "int32", "container": TEXT,
        "codec": TEXT, "decoder": TEXT, "decode_warnings": "list<item: string>", "label": TEXT,
        "confidence": SCORE, "top_k": "list<item: struct<label: string, score: float>>",
        "scores": "list<item: float>", "window_count": "int32",
        "embedding": "list<item: float>",
        "loudness_lufs": SCORE, "true_peak_dbtp": SCORE, "tempo_bpm": SCORE, "key": TEXT,
        "key_confidence": SCORE, "spectral_centroid_hz": SCORE, "spectral_bandwidth_hz": SCORE,
        "spectral_rolloff_hz": SCORE, "zero_crossing_rate": SCORE, "rms": SCORE,
        "mfcc_mean": "list<item: float>", "mfcc_std": "list<item: float>",
        "chroma_mean": "list<item: float>", "features_seconds": REAL,
        "model_fingerprint": TEXT,
        "front_end_fingerprint": TEXT, "pipeline_version": TEXT, "run_id": TEXT,
        "labelled_at": TIME,
    },
    WindowRow: {
        "uri": TEXT, "content_sha256": TEXT, "window_index": "int32", "start_s": REAL,
        "end_s": REAL, "label": TEXT, "confidence": SCORE, "scores": "list<item: float>",
        "run_id": TEXT,
    },
    FailureRow: {
        "uri": TEXT, "track_id": TEXT, "size_bytes": "int64", "modified_at": TIME, "stage": TEXT,
        "reason": TEXT, "message": TEXT, "model_fingerprint": TEXT,
        "front_end_fingerprint": TEXT, "pipeline_version": TEXT, "run_id": TEXT,
        "failed_at": TIME,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_are_pinned(kind):
    assert {field.name: str(field.type) for field in schema_of(kind)} == COLUMNS[kind]
    assert schema_of(kind).names == list(COLUMNS[kind])


@pytest.mark.parametrize("row", [PREDICTION, WINDOW, FAILURE], ids=lambda row: type(row).__name__)
def test_a_row_survives_parquet(row):
    schema = schema_of(type(row), labels=("pop", "rock"))
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row_dict(row)], schema=schema), file)
    table = pq.read_table(file)
    assert table.to_pylist() == [dataclasses.asdict(row)]
    assert json.loads(table.schema.metadata[b"labels"]) == ["pop", "rock"]


def test_labels_of_any_script():
    labels = ("ポップ", "música", 'r"n"b')
    metadata = schema_of(PredictionRow, labels=labels).metadata
    assert json.loads(metadata[b"labels"].decode("utf-8")) == list(labels)


def test_no_labels_no_metadata():
    assert not schema_of(FailureRow).metadata


def test_columns_of_a_manifest_come_last():
    extra = pa.schema([("album", pa.string()), ("year", pa.int64())])
    schema = schema_of(PredictionRow, extra=extra)
    assert schema.names == [*COLUMNS[PredictionRow], "album", "year"]
    assert schema.field("year").type == pa.int64()


def test_row_dict_holds_the_very_values():
    row = row_dict(PREDICTION)
    assert row["scores"] is PREDICTION.scores
    assert list(row) == list(COLUMNS[PredictionRow])


def test_a_stages_error_is_a_failure_with_its_reason():
    error = StageError(Reason.TOO_SHORT, "no full window")
    assert Failure.of(A, "Decode", error) == Failure(
        A, "Decode", Reason.TOO_SHORT, "no full window"
    )


def test_any_other_error_is_an_internal_one_with_its_type():
    failure = Failure.of(A, "Decode", ZeroDivisionError("by 0"))
    assert failure.reason is Reason.INTERNAL_ERROR
    assert failure.message == "ZeroDivisionError: by 0"
    assert failure.size_bytes is None


RECORDS = [
    kind
    for kind in vars(records).values()
    if dataclasses.is_dataclass(kind) and kind.__module__ == records.__name__
]


@pytest.mark.parametrize("kind", RECORDS)
def test_records_are_frozen(kind):
    record = object.__new__(kind)
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.uri = "b.mp3"


@pytest.mark.parametrize(
    "record",
    [
        Track("a.mp3", 5, NOON, (Listing("one", {"year": 1_999, "when": NOON}), Listing())),
        Track("a.mp3", copies=(Track("b.mp3"), Track("c.mp3"))),
        Failure(A, "Decode", Reason.CORRUPT, "why", 3),
        PREDICTION,
    ],
    ids=lambda record: type(record).__name__,
)
def test_records_travel_between_workers(record):
    assert pickle.loads(pickle.dumps(record)) == record


def test_arrays_travel_between_workers():
    samples = np.arange(6, dtype=np.float32).reshape(3, 2)
    window = pickle.loads(pickle.dumps(AudioWindow(A, 1, 0.0, 1.0, 8_000, 0, samples)))
    np.testing.assert_array_equal(window.samples, samples)
    assert window.samples.dtype == np.float32
    prediction = WindowPrediction(A, 1, 0.0, 1.0, 1.0, samples[0])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(prediction)).log_probs, samples[0])


def test_a_reason_is_written_as_its_code():
    assert Reason.NOT_AUDIO == "not_audio"
    assert json.dumps({"reason": Reason.NOT_AUDIO}) == '{"reason": "not_audio"}'


def test_members_of_a_track_are_itself_and_its_copies():
    b, c = Track("b.mp3"), Track("c.mp3")
    track = Track("a.mp3", copies=(b, c))
    assert track.members == (track, b, c)
    assert b.members == (b,)


def test_a_window_knows_its_tracks_uri():
    assert WindowPrediction(A, 1, 0.0, 1.0, 1.0, np.zeros(2, np.float32)).uri == "a.mp3"


def test_the_journals_columns_come_behind_the_rows_own():
    predictions = schema_of(PredictionRow, labels=("pop", "rock"))
    schema = journal_schema(predictions)
    assert schema.names == [*COLUMNS[PredictionRow], LISTING_COLUMN, WINDOWS_COLUMN]
    assert str(schema.field(LISTING_COLUMN).type) == "int32"
    assert schema.metadata == predictions.metadata
    nested = schema.field(WINDOWS_COLUMN).type.value_type
    own = [name for name in COLUMNS[WindowRow] if name not in ("uri", "content_sha256", "run_id")]
    assert [field.name for field in nested] == own
    assert [str(field.type) for field in nested] == [COLUMNS[WindowRow][name] for name in own]
    assert journal_schema(schema_of(FailureRow)).names == [*COLUMNS[FailureRow], LISTING_COLUMN]
