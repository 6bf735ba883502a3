"""RollUp: window predictions and facts to one row per track.

How scores are made and a label is chosen stands in transforms.scores.

A worker gets a track's windows one after the other, the last of them with the track's facts, so
that a track is whole as soon as that one is there, and its rows can be made durable at once. What
is not whole when a later track begins, or at the end of a bundle (because a window failed, or
because the runner dealt the windows out to several workers), meets in a GroupByKey and is whole
then, or a failure, ``incomplete``. Where a window failed before, that failure is the one told.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.transforms.window import GlobalWindows

from transforms.errors import Reason
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
from transforms.stage_metrics import FAILURES, StageMeter

STAGE = "RollUp"
_PARTS = "parts"
_PART_WINDOWS = 64
_MAX_OPEN = 16  # tracks whose windows wait; more than one only where a window failed


@dataclass(frozen=True)
class Provenance:
    """What every row of a run says about where it comes from."""

    run_id: str
    pipeline_version: str
    model_fingerprint: str
    front_end_fingerprint: str


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


def is_whole(windows: Sequence[WindowPrediction]) -> bool:
    """Whether all windows of a track are there, each once, in order, the facts on the last."""
    facts = windows[-1].facts
    indices = [window.window_index for window in windows]
    return facts is not None and indices == list(range(facts.window_count))


def incomplete(windows: Sequence[WindowPrediction]) -> Failure:
    """The failure of a track that is not whole."""
    distinct = len({window.window_index for window in windows})
    facts = next((window.facts for window in windows if window.facts is not None), None)
    expected = "an unknown number" if facts is None else facts.window_count
    message = f"{distinct} of {expected} windows arrived"
    if distinct != len(windows):
        message = f"{len(windows) - distinct} windows arrived more than once"
    size_bytes = None if facts is None else facts.size_bytes
    return Failure(windows[0].track, STAGE, Reason.INCOMPLETE, message, size_bytes)


def small_parts(
    uri: str, windows: Sequence[WindowPrediction]
) -> Iterator[tuple[str, Sequence[WindowPrediction]]]:
    """Cut what crosses a shuffle: a track of days has thousands of windows."""
    for start in range(0, len(windows), _PART_WINDOWS):
        yield uri, windows[start : start + _PART_WINDOWS]


class _AssembleDoFn(beam.DoFn):  # type: ignore[misc]
    """Windows to rows as soon as a track is whole; what is not, part by part, by uri."""

    _open: OrderedDict[str, list[WindowPrediction]]  # from start_bundle on

    def __init__(self, rule: LabelRule, provenance: Provenance) -> None:
        self._rule = rule
        self._provenance = provenance
        self._meter = StageMeter(STAGE)

    def start_bundle(self) -> None:
        self._open = OrderedDict()

    def process(self, window: WindowPrediction) -> Iterator[Any]:
        windows = self._open.setdefault(window.uri, [])
        windows.append(window)
        if window.facts is not None and is_whole(windows):
            del self._open[window.uri]
            yield from self._meter.count(
                lambda: [track_rows(windows, self._rule, self._provenance)]
            )
        while len(self._open) > _MAX_OPEN:
            for part in small_parts(*self._open.popitem(last=False)):
                yield beam.pvalue.TaggedOutput(_PARTS, part)

    def finish_bundle(self) -> Iterator[Any]:
        for uri, windows in self._open.items():
            for part in small_parts(uri, windows):
                yield beam.pvalue.TaggedOutput(_PARTS, GlobalWindows.windowed_value(part))


class _JoinDoFn(beam.DoFn):  # type: ignore[misc]
    """Parts of one track to its rows, or to a failure."""

    def __init__(self, rule: LabelRule, provenance: Provenance) -> None:
        self._rule = rule
        self._provenance = provenance
        self._meter = StageMeter(f"{STAGE}/parts")

    def process(self, element: tuple[str, Iterable[list[WindowPrediction]]]) -> Iterator[Any]:
        windows = [window for part in element[1] for window in part]
        windows.sort(key=lambda window: window.window_index)
        if is_whole(windows):
            yield from self._meter.count(
                lambda: [track_rows(windows, self._rule, self._provenance)]
            )
        else:
            yield self._meter.failed(incomplete(windows))


@dataclass
class RollUp(beam.PTransform):  # type: ignore[misc]
    """PCollection[WindowPrediction] to ``["tracks"]``, ``["parts"]`` and ``["failures"]``.

    ``tracks`` are the rows of each whole track as :func:`track_rows` gives them, ``parts`` those
    of tracks that only became whole behind a GroupByKey, ``failures`` what befell the others.

    Parameters
    ----------
    rule : LabelRule
    provenance : Provenance
    """

    rule: LabelRule
    provenance: Provenance

    def expand(self, predictions: beam.PCollection) -> dict[str, beam.PCollection]:
        assembled = predictions | "Assemble" >> beam.ParDo(
            _AssembleDoFn(self.rule, self.provenance)
        ).with_outputs(_PARTS, main="tracks")
        joined = (
            assembled[_PARTS]
            | "ByUri" >> beam.GroupByKey()
            | "Join"
            >> beam.ParDo(_JoinDoFn(self.rule, self.provenance)).with_outputs(
                FAILURES, main="tracks"
            )
        )
        return {
            "tracks": assembled["tracks"],
            "parts": joined["tracks"],
            FAILURES: joined[FAILURES],
        }
