"""Records and journal rows that tests of the later stages start from."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from transforms.errors import Reason
from transforms.journal import commit_segment
from transforms.provenance import Provenance
from transforms.records import (
    Failure,
    FailureRow,
    Listing,
    PredictionRow,
    Track,
    TrackFacts,
    WindowPrediction,
    journal_schema,
    schema_of,
)
from transforms.scores import LabelRule
from transforms.storage.dataset import Target
from transforms.storage.extras import with_extras
from transforms.storage.publish import publish
from transforms.track_rows import failure_rows, track_rows

LABELS = ("jazz", "pop", "rock")
RULE = LabelRule(labels=LABELS, top_k=2)
PROVENANCE = Provenance(
    run_id="run-1",
    pipeline_version="1.2.3",
    model_fingerprint="model0123",
    front_end_fingerprint="frontend0123",
)
MODIFIED = dt.datetime(2024, 2, 29, 23, 59, 59, 123_456, tzinfo=dt.timezone.utc)
FACTS = TrackFacts(
    content_sha256="c0ffee", size_bytes=1_000, duration_s=3.5, sample_rate_hz=44_100, channels=2,
    container="MP3", codec="MPEG_LAYER_III", decoder="soundfile", window_count=1,
    decode_warnings=("odd header",),
)  # fmt: skip
PREDICTIONS = schema_of(PredictionRow, labels=LABELS)
TRACKS_JOURNAL = journal_schema(PREDICTIONS)
FAILURES_JOURNAL = journal_schema(schema_of(FailureRow))


def track(uri: str = "a.mp3", *listings: Listing, copies: tuple[Track, ...] = ()) -> Track:
    return Track(uri, 1_000, MODIFIED, listings or (Listing(),), copies)


def predicted(
    of: Track | str = "a.mp3", count: int = 1, *, best: int = 0, sha256: str = "c0ffee"
) -> list[WindowPrediction]:
    """All windows of a track, each with 0.8 for the best label and the rest for the others."""
    of = track(of) if isinstance(of, str) else of
    probabilities = np.full(len(LABELS), 0.1, np.float32)
    probabilities[best] = 0.8
    facts = dataclasses.replace(FACTS, window_count=count, content_sha256=sha256)
    return [
        WindowPrediction(
            of, index, 2.0 * index, 2.0 * index + 2.0, 2.0, np.log(probabilities), None,
            facts if index == count - 1 else None,
        )
        for index in range(count)
    ]  # fmt: skip


def labelled_rows(
    of: Track | str = "a.mp3", count: int = 1, *, run_id: str = "run-1", **options: Any
) -> list[dict[str, Any]]:
    provenance = dataclasses.replace(PROVENANCE, run_id=run_id)
    return track_rows(predicted(of, count, **options), RULE, provenance)


def failed_rows(
    of: Track | str = "a.mp3", stage: str = "Decode", reason: Reason = Reason.CORRUPT,
    message: str = "broken", *, run_id: str = "run-1",
) -> list[dict[str, Any]]:  # fmt: skip
    of = track(of) if isinstance(of, str) else of
    provenance = dataclasses.replace(PROVENANCE, run_id=run_id)
    return failure_rows(Failure(of, stage, reason, message), provenance)


def segment(folder: Path | str, rows: list[dict[str, Any]]) -> str:
    """Journal rows of one kind as a segment."""
    if "reason" in rows[0]:
        return commit_segment(str(folder), "failures", rows, FAILURES_JOURNAL)
    return commit_segment(str(folder), "tracks", rows, TRACKS_JOURNAL)


def published(
    output: Path | str, rows: list[dict[str, Any]], run_id: str = "run-1", *,
    extras: Collection[str] = (),
) -> str:  # fmt: skip
    """Rows of tracks and of failures as the datasets of a run; gives the output back."""
    schema = with_extras(PREDICTIONS, frozenset(extras)) if extras else PREDICTIONS
    kinds = [[row for row in rows if name in row] for name in ("label", "reason")]
    paths = [segment(f"{output}/journal", kind) for kind in kinds if kind]
    publish(paths, Target(str(output), run_id), schema)
    return str(output)


def stored(output: Path | str, name: str) -> list[dict[str, Any]]:
    """Rows of a dataset of all runs, in an order of their own."""
    rows: list[dict[str, Any]] = ds.dataset(f"{output}/{name}").to_table().to_pylist()
    keys = ("uri", "track_id", "window_index")
    return sorted(rows, key=lambda row: [str(row.get(key)) for key in keys])
