"""RollUp: window predictions and facts to one row per track.

What the rows hold is made in transforms.track_rows.

A worker gets a track's windows one after the other, the last of them with the track's facts, so
that a track is whole as soon as that one is there, and its rows can be made durable at once. What
is not whole when a later track begins, or at the end of a bundle (because a window failed, or
because the runner dealt the windows out to several workers), meets in a GroupByKey and is whole
then, or a failure, ``incomplete``. Where a window failed before, that failure is the one told.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows

from transforms.errors import Reason
from transforms.provenance import Provenance
from transforms.records import Failure, WindowPrediction
from transforms.scores import LabelRule
from transforms.stage_metrics import FAILURES, StageMeter
from transforms.track_rows import track_rows

STAGE = "RollUp"
_PARTS = "parts"
_PART_WINDOWS = 64
_MAX_OPEN = 16  # tracks whose windows wait; more than one only where a window failed


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
