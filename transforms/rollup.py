"""RollUp: window predictions and facts to one row per track.

The rule: scores are the softmax of the mean of the windows' log-probabilities, weighted by the
seconds of sound in each window (the geometric mean of their probabilities). A best score under
the checkpoint's threshold, or a track without any sound, is labelled ``unknown``.

Everything that is known about a track meets here: its listings, its facts, its windows and its
failures. A track with any failure is a failed track; one whose windows did not all arrive is a
failed track too; every other one is labelled. So each listing ends in exactly one row.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np

from transforms.errors import Reason
from transforms.records import (
    UNKNOWN_LABEL,
    Failure,
    FailureRow,
    FloatArray,
    Listing,
    PredictionRow,
    Track,
    TrackFacts,
    WindowPrediction,
    WindowRow,
    row_dict,
)
from transforms.stage_metrics import FAILURES, StageMeter

STAGE = "RollUp"
_STAGE_ORDER = ("ReadFiles", "Decode", "Preprocess", "MelSpectrogram", "RunInference", STAGE)


@dataclass(frozen=True)
class Provenance:
    """What every row of a run says about where it comes from."""

    run_id: str
    pipeline_version: str
    model_fingerprint: str
    front_end_fingerprint: str


@dataclass(frozen=True)
class LabelRule:
    """How scores become a label."""

    labels: tuple[str, ...]
    unknown_threshold: float = 0.0
    top_k: int = 5


def mean_scores(log_probs: FloatArray, weights: FloatArray) -> FloatArray:
    """Softmax of the weighted mean of log-probabilities.

    Parameters
    ----------
    log_probs : float32, shape (windows, labels)
    weights : float32, shape (windows,), not negative
        Where all are 0 every window weighs the same.

    Returns
    -------
    float32, shape (labels,), in [0, 1], summing to 1
    """
    weights = weights.astype(np.float64)
    if not weights.any():
        weights = np.ones_like(weights)
    # A probability of 0 in one window must not turn into 0 * -inf = NaN.
    finite = np.maximum(log_probs.astype(np.float64), np.log(np.finfo(np.float32).tiny))
    mean = (weights[:, None] * finite).sum(axis=0) / weights.sum()
    scores = np.exp(mean - mean.max())
    return np.asarray(scores / scores.sum(), dtype=np.float32)


def choose_label(scores: FloatArray, rule: LabelRule, *, has_sound: bool = True) -> str:
    """The label of the best score, or ``unknown`` (see the module)."""
    best = int(scores.argmax())
    if not has_sound or scores[best] < rule.unknown_threshold:
        return UNKNOWN_LABEL
    return rule.labels[best]


def top_scores(scores: FloatArray, rule: LabelRule) -> list[dict[str, Any]]:
    """The ``top_k`` labels with their scores, best first; ties in label order."""
    order = np.argsort(-scores, kind="stable")[: rule.top_k]
    return [{"label": rule.labels[i], "score": float(scores[i])} for i in order]


def mean_embedding(windows: Sequence[WindowPrediction], weights: FloatArray) -> list[float] | None:
    """Weighted mean of the windows' embeddings, (hidden,), or None where there are none."""
    vectors = [w.embedding for w in windows if w.embedding is not None]
    if len(vectors) != len(windows):
        return None
    chosen = weights if weights.any() else np.ones_like(weights)
    mean: list[float] = np.average(vectors, axis=0, weights=chosen).astype(np.float32).tolist()
    return mean


def prediction_fields(
    facts: TrackFacts, windows: Sequence[WindowPrediction], rule: LabelRule
) -> dict[str, Any]:
    """The columns of a prediction that do not depend on the listing or the run."""
    weights = np.array([w.content_s for w in windows], dtype=np.float32)
    scores = mean_scores(np.stack([w.log_probs for w in windows]), weights)
    fields = row_dict(facts)
    fields["decode_warnings"] = list(facts.decode_warnings)
    return fields | {
        "label": choose_label(scores, rule, has_sound=bool(weights.any())),
        "confidence": float(scores.max()),
        "top_k": top_scores(scores, rule),
        "scores": scores.tolist(),
        "embedding": mean_embedding(windows, weights),
    }


def window_row(
    window: WindowPrediction, content_sha256: str, rule: LabelRule, run_id: str
) -> WindowRow:
    """The evidence of one window."""
    scores = np.exp(window.log_probs)
    return WindowRow(
        uri=window.uri,
        content_sha256=content_sha256,
        window_index=window.window_index,
        start_s=window.start_s,
        end_s=window.end_s,
        label=choose_label(scores, rule, has_sound=window.content_s > 0),
        confidence=float(scores.max()),
        scores=scores.tolist(),
        run_id=run_id,
    )


def first_failure(failures: Iterable[Failure]) -> Failure:
    """The failure of the earliest stage; ties by message, so that no order of arrival shows.

    Stages that are not this package's come last.
    """

    def rank(failure: Failure) -> tuple[int, str, str, str]:
        stage = failure.stage.partition("/")[0]
        place = _STAGE_ORDER.index(stage) if stage in _STAGE_ORDER else len(_STAGE_ORDER)
        return place, stage, failure.reason.value, failure.message

    return min(failures, key=rank)


def find_failure(
    uri: str,
    facts: Sequence[TrackFacts],
    windows: Sequence[WindowPrediction],
    failures: Sequence[Failure],
) -> Failure | None:
    """Why a track cannot be labelled, or None if all of it is there."""
    if failures:
        return first_failure(failures)
    if len(facts) != 1:
        message = f"{len(facts)} decoding results arrived instead of 1"
        return Failure(uri, STAGE, Reason.INCOMPLETE, message)
    indices = sorted(w.window_index for w in windows)
    if indices != list(range(facts[0].window_count)) or not indices:
        distinct = len(set(indices))
        message = f"{distinct} of {facts[0].window_count} windows arrived"
        if distinct != len(indices):
            message = f"{len(indices) - distinct} windows arrived more than once"
        return Failure(uri, STAGE, Reason.INCOMPLETE, message, facts[0].size_bytes)
    return None


def failure_row(
    failure: Failure, listing: Listing, size_bytes: int | None, run_id: str
) -> FailureRow:
    """The failures row of one listing."""
    return FailureRow(
        uri=failure.uri,
        track_id=listing.track_id,
        size_bytes=size_bytes if failure.size_bytes is None else failure.size_bytes,
        stage=failure.stage.partition("/")[0],
        reason=failure.reason.value,
        message=failure.message,
        run_id=run_id,
        failed_at=dt.datetime.now(dt.timezone.utc),
    )


class _RollUpDoFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, rule: LabelRule, provenance: Provenance) -> None:
        self._rule = rule
        self._provenance = provenance
        self._meter = StageMeter(STAGE)

    def process(self, element: tuple[str, dict[str, Iterable[Any]]]) -> Iterator[Any]:
        yield from self._meter.count(lambda: self._rows(*element))

    def _rows(self, uri: str, found: dict[str, Iterable[Any]]) -> Iterator[Any]:
        facts, windows = list(found["facts"]), list(found["predictions"])
        windows.sort(key=lambda w: w.window_index)
        failures = list(found[FAILURES])
        tracks = list(found["tracks"]) or [Track(uri)]  # failed before it became a track
        listings = [listing for track in tracks for listing in track.listings]
        failure = find_failure(uri, facts, windows, failures)
        if failure is not None:
            for listing in listings:
                row = failure_row(failure, listing, tracks[0].size_bytes, self._provenance.run_id)
                yield beam.pvalue.TaggedOutput(FAILURES, row_dict(row))
            return
        yield from self._labelled(facts[0], windows, listings)

    def _labelled(
        self, facts: TrackFacts, windows: list[WindowPrediction], listings: list[Listing]
    ) -> Iterator[Any]:
        fields = prediction_fields(facts, windows, self._rule)
        now = dt.datetime.now(dt.timezone.utc)
        for listing in listings:
            row = PredictionRow(
                **fields, track_id=listing.track_id, labelled_at=now, **row_dict(self._provenance)
            )
            yield {**row_dict(row), **listing.columns}
        for window in windows:
            evidence = window_row(window, facts.content_sha256, self._rule, self._provenance.run_id)
            yield beam.pvalue.TaggedOutput("windows", row_dict(evidence))


@dataclass
class RollUp(beam.PTransform):  # type: ignore[misc]
    """Join a run's results by uri and make its rows.

    Takes a dict of PCollections: ``tracks`` (Track), ``facts`` (TrackFacts), ``predictions``
    (WindowPrediction) and ``failures`` (Failure, of every stage). Gives rows as dictionaries:
    ``.predictions`` (PredictionRow's columns and the listing's own), ``.windows`` (WindowRow's)
    and ``.failures`` (FailureRow's).

    Parameters
    ----------
    rule : LabelRule
    provenance : Provenance
    """

    rule: LabelRule
    provenance: Provenance

    def expand(self, inputs: dict[str, beam.PCollection]) -> beam.pvalue.DoOutputsTuple:
        keyed = {
            name: inputs[name] | f"Key/{name}" >> beam.Map(lambda item: (item.uri, item))
            for name in ("tracks", "facts", "predictions", FAILURES)
        }
        return (
            keyed
            | beam.CoGroupByKey()
            | beam.ParDo(_RollUpDoFn(self.rule, self.provenance)).with_outputs(
                "windows", FAILURES, main="predictions"
            )
        )
