"""From running scores to what is said of a stream: a label each second, and its changes.

What is carried from one call to the next, besides transforms.streaming.label_segments:

=================  ====================  =====================================================
name               shape                 of
=================  ====================  =====================================================
``last_scores``    (labels,), float32    the newest frame
``sound_counts``   (2,), int64           whether the open second has sound; silent frames up to
                                         now
=================  ====================  =====================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from transforms.models.sequence import Array, State
from transforms.records import UNKNOWN_LABEL, FloatArray
from transforms.scores import LabelRule, choose_label
from transforms.streaming.label_segments import UNKNOWN, LabelSegments, Segment
from transforms.streaming.recogniser import Heard


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What is said of a stretch, in seconds since the first sample that was heard."""

    kind: Literal["second", "segment"]
    start_s: float
    end_s: float
    label: str
    confidence: float  # of the label; where that is unknown, the best score
    scores: list[float]  # running at the end of a second; the mean over a segment


@dataclass(frozen=True, kw_only=True)
class Silence:
    """Nothing over the front end's floor for as long as it takes to be told."""

    start_s: float
    end_s: float


class RunningLabel:
    """Statements about one stream after the other, whose states the caller keeps.

    Parameters
    ----------
    rule : LabelRule
    frame_seconds : float
    min_segment_seconds : float
    silence_seconds : float
        Of silence after which it is told, once until there is sound again.
    """

    def __init__(
        self,
        rule: LabelRule,
        frame_seconds: float,
        min_segment_seconds: float,
        silence_seconds: float,
    ) -> None:
        self._rule, self._frame_s = rule, frame_seconds
        self._least = max(1, round(min_segment_seconds / frame_seconds))
        self._silent = max(1, round(silence_seconds / frame_seconds))

    def initial_state(self) -> State:
        """The state before the first frame."""
        labels = len(self._rule.labels)
        return {
            "last_scores": np.zeros(labels, dtype=np.float32),
            **LabelSegments.initial_state(labels),
            "sound_counts": np.zeros(2, dtype=np.int64),
        }

    def step(
        self, heard: Heard, state: Mapping[str, Array]
    ) -> tuple[list[Statement | Silence], State]:
        """Statements that are complete with these frames, and the state behind them."""
        if not len(heard):
            return [], {name: state[name] for name in self.initial_state()}
        said: list[Statement | Silence] = []
        has_sound, silent = (int(count) for count in state["sound_counts"])
        segments = LabelSegments(self._least, state)
        labels = self._labels(heard)
        for number, (scores, sound, label) in enumerate(
            zip(heard.scores, heard.sound, labels, strict=True), heard.first
        ):
            has_sound, silent = has_sound or int(sound), 0 if sound else silent + 1
            if silent == self._silent:
                end_s = self._frame_s * (number + 1)
                said.append(Silence(start_s=end_s - silent * self._frame_s, end_s=end_s))
            if (ended := segments.step(number, int(label), scores)) is not None:
                said.append(self._of_segment(ended, segments.first * self._frame_s))
            if self._second(number + 1) > (second := self._second(number)):
                said.append(self._of_second(second, second + 1.0, scores, bool(has_sound)))
                has_sound = 0
        return said, {
            **segments.state(),
            "last_scores": heard.scores[-1].copy(),
            "sound_counts": np.array([has_sound, silent], dtype=np.int64),
        }

    def finish(self, frames: int, end_s: float, state: Mapping[str, Array]) -> list[Statement]:
        """What is still open at the end of the stream, ``end_s`` behind its first sample."""
        if frames == 0:
            return []
        said = []
        last = LabelSegments(self._least, state).finish()
        # The last frame may be centred on the end of the sound.
        if last is not None and last.first * self._frame_s < end_s:
            said.append(self._of_segment(last, end_s))
        second = self._second(frames)  # those before it are told
        if end_s > second:
            has_sound, silent = (int(count) for count in state["sound_counts"])
            is_heard = bool(has_sound) or silent == 0  # no frame may lie in it
            said.append(self._of_second(second, end_s, state["last_scores"], is_heard))
        return said

    def _second(self, frame: int) -> int:
        return int(frame * self._frame_s + 1e-9)

    def _labels(self, heard: Heard) -> npt.NDArray[np.int64]:
        best = heard.scores.argmax(axis=1)
        sure = heard.scores.max(axis=1) >= self._rule.unknown_threshold
        return np.where(sure & heard.sound, best, UNKNOWN)

    def _of_second(
        self, second: int, end_s: float, scores: FloatArray, has_sound: bool
    ) -> Statement:
        return Statement(
            kind="second",
            start_s=float(second),
            end_s=end_s,
            label=choose_label(scores, self._rule, has_sound=has_sound),
            confidence=float(scores.max()),
            scores=scores.tolist(),
        )

    def _of_segment(self, segment: Segment, end_s: float) -> Statement:
        mean = segment.sums / segment.frames
        known = segment.label != UNKNOWN
        return Statement(
            kind="segment",
            start_s=segment.first * self._frame_s,
            end_s=end_s,
            label=self._rule.labels[segment.label] if known else UNKNOWN_LABEL,
            confidence=float(mean[segment.label] if known else mean.max()),
            scores=mean.tolist(),
        )
