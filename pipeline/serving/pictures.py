"""The log-mel images of a file's windows as one picture, in the order of time."""

from __future__ import annotations

import io

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
        self._columns = 0
        self._pooled = 1  # columns of an image that are one here

    def add(self, image: FloatArray) -> None:
        """Add a window's image, (height, width), -1 to 1, low frequencies first."""
        levels = np.clip((image + 1) * 127.5, 0, 255)[::-1]
        self._parts.append(_narrowed(levels, self._pooled).round().astype(np.uint8))
        self._columns += self._parts[-1].shape[1]
        while self._columns > MAX_COLUMNS and self._columns > len(self._parts):
            self._pooled *= 2
            self._parts = [_narrowed(part, 2).round().astype(np.uint8) for part in self._parts]
            self._columns = sum(part.shape[1] for part in self._parts)

    def png(self) -> bytes:
        """The picture, time from left to right, low frequencies at the bottom."""
        from PIL import Image

        picture = Image.fromarray(np.concatenate(self._parts, axis=1), mode="P")
        picture.putpalette(_palette().tobytes())
        content = io.BytesIO()
        picture.save(content, "PNG")
        return content.getvalue()


def _narrowed(levels: npt.NDArray[np.generic], factor: int) -> npt.NDArray[np.floating]:
    """Means of so many neighbouring columns; the last may be of fewer."""
    columns = levels.shape[1]
    starts = np.arange(0, columns, factor)
    counts = np.diff(np.append(starts, columns))
    sums = np.add.reduceat(levels.astype(np.float32), starts, axis=1)
    narrowed: npt.NDArray[np.floating] = sums / counts
    return narrowed


def _palette() -> npt.NDArray[np.uint8]:
    """256 colours of red, green and blue between those of ``_COLOURS``."""
    at = np.linspace(0, 255, len(_COLOURS))
    colours = np.array(_COLOURS)
    channels = [np.interp(np.arange(256), at, colours[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)
