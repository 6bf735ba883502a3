"""The log-mel images of a file's windows as one picture, in the order of time."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.records import FloatArray

MAX_COLUMNS = 4_096  # of a picture; a longer file's is coarser in time
# Dark to bright, of even steps in lightness: black, violet, red, orange, pale yellow.
_COLOURS = ((0, 0, 4), (80, 18, 123), (182, 54, 121), (251, 136, 97), (252, 253, 191))


class Picture:
    """Grows window by window, in bounded memory."""

    def __init__(self) -> None:
        self._parts: list[npt.NDArray[np.uint8]] = []
        self._columns = 0  # in the parts
        self._pooled = 1  # columns of an image that are one here
        self._rest: npt.NDArray[np.float32] | None = None  # columns that are too few for one here

    def add(self, image: FloatArray) -> None:
        """Add a window's image, (height, width), -1 to 1, low frequencies first."""
        levels = np.clip((image + 1) * np.float32(127.5), 0, 255)[::-1]
        rest = levels if self._rest is None else np.concatenate([self._rest, levels], axis=1)
        whole = rest.shape[1] // self._pooled * self._pooled
        self._rest = rest[:, whole:]
        if whole:
            self._parts.append(_narrowed(rest[:, :whole], self._pooled))
            self._columns += self._parts[-1].shape[1]
        while self._columns >= MAX_COLUMNS:
            self._halve()

    def _halve(self) -> None:
        columns = np.concatenate(self._parts, axis=1)
        even = columns.shape[1] // 2 * 2
        odd = np.repeat(columns[:, even:], self._pooled, axis=1)
        assert self._rest is not None, "what is halved has been added"
        self._rest = np.concatenate([odd, self._rest], axis=1, dtype=np.float32)
        self._parts = [_narrowed(columns[:, :even], 2)]
        self._columns = even // 2
        self._pooled *= 2

    def png(self) -> bytes:
        """The picture, time from left to right, low frequencies at the bottom."""
        from PIL import Image

        parts = list(self._parts)
        if self._rest is not None and self._rest.size:
            parts.append(_narrowed(self._rest, self._rest.shape[1]))
        picture = Image.fromarray(np.concatenate(parts, axis=1), mode="P")
        picture.putpalette(_palette().tobytes())
        content = io.BytesIO()
        picture.save(content, "PNG")
        return content.getvalue()


def _narrowed(levels: npt.NDArray[Any], factor: int) -> npt.NDArray[np.uint8]:
    """Means of so many neighbouring columns, of which there are a multiple."""
    means = levels.reshape(len(levels), -1, factor).mean(axis=2, dtype=np.float32)
    narrowed: npt.NDArray[np.uint8] = means.round().astype(np.uint8)
    return narrowed


def _palette() -> npt.NDArray[np.uint8]:
    """256 colours of red, green and blue between those of ``_COLOURS``."""
    at = np.linspace(0, 255, len(_COLOURS))
    colours = np.array(_COLOURS)
    channels = [np.interp(np.arange(256), at, colours[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)
