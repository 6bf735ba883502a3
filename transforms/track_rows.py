"""A track's windows to its rows, and a failure to its own: free of Beam.

How scores are made and a label is chosen stands in transforms.scores.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Any

import numpy as np

from transforms.provenance import Provenance
from transforms.records import (
    LISTING_COLUMN,
    WINDOWS_COLUMN,
    Failure,
    FailureRow,
    PredictionRow,
    TrackFacts,
    TrackFeatures,
    WindowPrediction,
    row_dict,
)
from transforms.scores import LabelRule, choose_label, mean_embedding, mean_scores, top_scores


def prediction_fields(
    facts: TrackFacts, windows: Sequence[WindowPrediction], rule: LabelRule
) -> dict[str, Any]:
    """The columns of a prediction that do not depend on the listing or the run."""
    weights = np.array([w.content_s for w in windows], dtype=np.float32)
    scores = mean_scores(np.stack([w.log_probs for w in windows]), weights)
    fields = row_dict(facts)
    fields["decode_warnings"] = list(facts.decode_warnings)
    fields |= feature_fields(fields.pop("features"))
    return fields | {
        "label": choose_label(scores, rule, has_sound=bool(weights.any())),
        "confidence": float(scores.max()),
        "top_k": top_scores(scores, rule),
        "scores": scores.tolist(),
        "embedding": mean_embedding(windows, weights),
    }


def feature_fields(features: TrackFeatures | None) -> dict[str, Any]:
    """The columns of a track's features, all None where they were not asked for."""
    if features is None:
        return dict.fromkeys(field.name for field in dataclasses.fields(TrackFeatures))
    return row_dict(features)


def window_fields(window: WindowPrediction, rule: LabelRule) -> dict[str, Any]:
    """The evidence of one window: WindowRow's columns but those of the track."""
    scores = np.exp(window.log_probs)
    return {
        "window_index": window.window_index,
        "start_s": window.start_s,
        "end_s": window.end_s,
        "label": choose_label(scores, rule, has_sound=window.content_s > 0),
        "confidence": float(scores.max()),
        "scores": scores.tolist(),
    }


def track_rows(
    windows: Sequence[WindowPrediction], rule: LabelRule, provenance: Provenance
) -> list[dict[str, Any]]:
    """The journal's rows of a whole track, copies included: one for each listing.

    Parameters
    ----------
    windows : sequence of WindowPrediction
        All of the track's, in order, the last one with its facts.
    rule : LabelRule
    provenance : Provenance

    Returns
    -------
    list of dict
        PredictionRow's columns, the listing's own and the journal's; each file's windows are
        nested in its first listing's row.
    """
    facts = windows[-1].facts
    assert facts is not None, "the last window carries the facts"
    fields = prediction_fields(facts, windows, rule)
    evidence = [window_fields(window, rule) for window in windows]
    now = dt.datetime.now(dt.timezone.utc)
    rows = []
    for track in windows[-1].track.members:
        for number, listing in enumerate(track.listings):
            row = PredictionRow(
                **fields,
                uri=track.uri,
                modified_at=track.modified_at,
                track_id=listing.track_id,
                labelled_at=now,
                **row_dict(provenance),
            )
            own = {LISTING_COLUMN: number, WINDOWS_COLUMN: evidence if number == 0 else []}
            rows.append({**row_dict(row), **listing.columns, **own})
    return rows


def failure_rows(failure: Failure, provenance: Provenance) -> list[dict[str, Any]]:
    """The journal's rows of a failed track, copies included: one for each listing."""
    now = dt.datetime.now(dt.timezone.utc)
    rows = []
    for track in failure.track.members:
        size_bytes = track.size_bytes if failure.size_bytes is None else failure.size_bytes
        for number, listing in enumerate(track.listings):
            row = FailureRow(
                uri=track.uri,
                track_id=listing.track_id,
                size_bytes=size_bytes,
                modified_at=track.modified_at,
                stage=failure.stage.partition("/")[0],
                reason=failure.reason.value,
                message=failure.message,
                failed_at=now,
                **row_dict(provenance),
            )
            rows.append({**row_dict(row), LISTING_COLUMN: number})
    return rows
