"""Writing FLAC and WAV: float samples to integers that never wrap around, files that are whole."""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import numpy.typing as npt
import soundfile as sf

from transforms.errors import Reason, StageError
from transforms.records import FloatArray

Format = Literal["flac", "wav"]
Bits = Literal[16, 24]

_FLAC_CHANNELS, _FLAC_HZ = 8, 655_350
_FLAC_ANY_HZ = 65_535  # above, a frame's header states tens of hertz
_WAV_BYTES = (1 << 32) - (1 << 16)  # of samples: beyond that the sizes in its header overflow
_CHECKED_FRAMES = 1 << 16


def check_fits(kind: Format, sample_rate_hz: int, channels: int) -> None:
    """Raise StageError, ``unsupported_output``, if a format cannot hold such a recording."""
    if kind == "flac" and channels > _FLAC_CHANNELS:
        raise StageError(
            Reason.UNSUPPORTED_OUTPUT,
            f"{channels} channels, FLAC holds at most {_FLAC_CHANNELS}; use --format=wav",
        )
    odd = sample_rate_hz > _FLAC_ANY_HZ and sample_rate_hz % 10
    if kind == "flac" and (sample_rate_hz > _FLAC_HZ or odd):
        raise StageError(
            Reason.UNSUPPORTED_OUTPUT,
            f"{sample_rate_hz} Hz, FLAC holds at most {_FLAC_HZ}, and above {_FLAC_ANY_HZ} only "
            "tens; use --format=wav",
        )


def quantised(samples: FloatArray, bits: Bits) -> tuple[npt.NDArray[np.int32], int]:
    """Samples as integers, rounded to the nearest and limited to full scale.

    Parameters
    ----------
    samples : float32, any shape
        Full scale is 1.0; no NaN.
    bits : {16, 24}

    Returns
    -------
    int32, same shape
        In the upper bits. What was read from a file of as many bits comes out as it was there.
    int
        How many were beyond full scale.
    """
    scale = float(1 << (bits - 1))
    rounded = np.rint(samples * np.float32(scale))
    beyond = np.count_nonzero((rounded < -scale) | (rounded > scale - 1))
    limited = np.clip(rounded, -scale, scale - 1).astype(np.int32)
    return limited << (32 - bits), int(beyond)


class SoundWriter(AbstractContextManager["SoundWriter"]):
    """Writes samples to a new file.

    Parameters
    ----------
    path : Path
    kind : {"flac", "wav"}
        A WAV of more than 4 GiB is an RF64; one of more than two channels has their places in its
        header (WAVEX).
    bits : {16, 24}
    sample_rate_hz, channels, frames : int
        ``frames`` is how many will come.

    Attributes
    ----------
    clipped : int
        Samples beyond full scale so far.

    Raises
    ------
    StageError
        If the format cannot hold the recording.
    OSError
        If the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        kind: Format,
        bits: Bits,
        *,
        sample_rate_hz: int,
        channels: int,
        frames: int,
    ) -> None:
        check_fits(kind, sample_rate_hz, channels)
        self.clipped = 0
        self._path, self._frames, self._bits = path, frames, bits
        container = "FLAC"
        if kind == "wav":
            large = frames * channels * bits // 8 > _WAV_BYTES
            container = "RF64" if large else "WAVEX" if channels > 2 else "WAV"
        path.touch()  # says what is wrong, as libsndfile does not
        try:
            self._file = sf.SoundFile(
                path, "w", sample_rate_hz, channels, f"PCM_{bits}", format=container
            )
        except sf.LibsndfileError as error:
            raise self._lost() from error

    def write(self, samples: FloatArray) -> None:
        """Add samples, (frames, channels)."""
        integers, beyond = quantised(samples, self._bits)
        self.clipped += beyond
        try:
            self._file.write(integers)
        except (AssertionError, sf.LibsndfileError) as error:
            raise self._lost() from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._file.close()
        except sf.LibsndfileError as closing:
            if error is None:
                raise self._lost() from closing
        if error is None:
            self._check()

    def _check(self) -> None:
        """Read it all again: libsndfile does not tell of what it could not write at the end."""
        try:
            with sf.SoundFile(self._path) as file:
                blocks = file.blocks(_CHECKED_FRAMES, dtype="int32")
                frames = sum(len(block) for block in blocks)
        except sf.LibsndfileError as error:
            raise self._lost() from error
        if frames != self._frames:
            raise self._lost()

    def _lost(self) -> OSError:
        told = f"{os.strerror(errno.ENOSPC)}, or too large a file"
        return OSError(errno.ENOSPC, told, str(self._path))
