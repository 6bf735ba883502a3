"""Rows as the batch pipeline writes them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.serving.answers import Labelled, Upload
from transforms.provenance import Provenance
from transforms.records import (
    PredictionRow,
    WindowPrediction,
    WindowRow,
    row_dict,
    schema_of,
)
from transforms.scores import LabelRule
from transforms.track_rows import prediction_fields, window_fields


def labelled_by(
    predictions: Sequence[WindowPrediction], rule: LabelRule, picture: bytes | None
) -> Labelled:
    """The label of a file with its evidence: the columns that depend on its content.

    Parameters
    ----------
    predictions : sequence of WindowPrediction
        All of the file's, in order, the last one with its facts.
    rule : LabelRule
    picture : bytes or None
        PNG.
    """
    facts = predictions[-1].facts
    assert facts is not None, "the last window carries the facts"
    (prediction,) = _as_written([prediction_fields(facts, predictions, rule)], PredictionRow)
    windows = _as_written([window_fields(window, rule) for window in predictions], WindowRow)
    return Labelled(prediction, windows, picture, from_cache=False)


def told_of(labelled: Labelled, upload: Upload, provenance: Provenance) -> Labelled:
    """A result with the columns that are a request's own, in the order of the row."""
    own = {
        **labelled.prediction,
        **row_dict(provenance),
        "uri": upload.uri,
        "track_id": None,
        "modified_at": None,
        "labelled_at": dt.datetime.now(dt.timezone.utc),
    }
    of_file = {
        "uri": upload.uri, "content_sha256": upload.sha256, "run_id": provenance.run_id,
    }  # fmt: skip
    windows = [row_dict(WindowRow(**{**window, **of_file})) for window in labelled.windows]
    prediction = row_dict(PredictionRow(**own))
    return dataclasses.replace(labelled, prediction=prediction, windows=windows)


@functools.lru_cache(maxsize=8)
def _columns(row_class: type, names: tuple[str, ...]) -> pa.Schema:
    schema = schema_of(row_class)
    return pa.schema([schema.field(name) for name in names])


def _as_written(rows: Sequence[Mapping[str, Any]], row_class: type) -> list[dict[str, Any]]:
    """Rows as they are read out of a dataset: most numbers have 32 bits there."""
    columns = _columns(row_class, tuple(rows[0]))
    written: list[dict[str, Any]] = pa.Table.from_pylist(rows, schema=columns).to_pylist()
    return written
