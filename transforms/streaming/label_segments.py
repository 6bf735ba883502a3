"""Where a running label changes, so that a change is one, and not the flicker before it.

A segment ends where its label last held, if that does not come back within the least length of a
segment. The next one begins there; its label is the most frequent one of the frames since then.
What is carried from one frame to the next:

=================  ====================  =====================================================
name               shape                 of
=================  ====================  =====================================================
``open_segment``   (3,), int64           its label, its frames (0: there is none), the first one
``label_sums``     (2, labels), float64  scores of the open segment's frames, and since it held
``label_counts``   (labels + 1,), int64  frames since it held by label, the last one unknown
=================  ====================  =====================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transforms.models.sequence import Array, State
from transforms.records import FloatArray

UNKNOWN = -1
"""In place of a label's number; as an index it is the last."""


@dataclass
class Segment:
    """Frames of one label."""

    label: int
    first: int  # frame
    frames: int
    sums: npt.NDArray[np.float64]  # (labels,), of the frames' scores


class LabelSegments:
    """The segment that is open, frame by frame.

    Parameters
    ----------
    least : int
        Frames of a segment.
    state : mapping
    """

    def __init__(self, least: int, state: Mapping[str, Array]) -> None:
        self._least = least
        label, frames, first = (int(count) for count in state["open_segment"])
        sums = np.array(state["label_sums"], dtype=np.float64)
        self._open = Segment(label, first, frames, sums[0])
        self._sums = sums[1]
        self._counts = np.array(state["label_counts"], dtype=np.int64)

    @staticmethod
    def initial_state(labels: int) -> State:
        """The state before the first frame."""
        state: State = {"label_sums": np.zeros((2, labels), dtype=np.float64)}
        state["open_segment"] = np.zeros(3, dtype=np.int64)
        state["label_counts"] = np.zeros(labels + 1, dtype=np.int64)
        return state

    @property
    def first(self) -> int:
        """First frame of the open segment."""
        return self._open.first

    def step(self, number: int, label: int, scores: FloatArray) -> Segment | None:
        """Take the frame that comes next; gives the segment that ends in front of ``first``."""
        if self._open.frames == 0:
            self._open.label, self._open.first = label, number
        self._counts[label] += 1
        self._sums += scores
        if label == self._open.label:
            self._join()
            return None
        since = int(self._counts.sum())
        if since < self._least:
            return None
        ended, most = self._open, int(self._counts.argmax())
        label = UNKNOWN if most == len(self._counts) - 1 else most
        self._open = Segment(label, number + 1 - since, 0, np.zeros_like(self._sums))
        self._join()
        return ended

    def finish(self) -> Segment | None:
        """The segment that is open at the end; what came since it held belongs to it."""
        self._join()
        return self._open if self._open.frames else None

    def _join(self) -> None:
        self._open.frames += int(self._counts.sum())
        self._open.sums = self._open.sums + self._sums
        self._counts[:], self._sums = 0, np.zeros_like(self._sums)

    def state(self) -> State:
        """What is carried to the next frame."""
        one = self._open
        state: State = {"label_sums": np.stack([one.sums, self._sums])}
        state["open_segment"] = np.array([one.label, one.frames, one.first], dtype=np.int64)
        state["label_counts"] = np.array(self._counts)
        return state
