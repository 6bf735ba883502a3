"""What the readers of audio files share: their protocol, their warnings, and their limits.

A reader is one decoder's attempt at one file: transforms.audio.soundfile_reader and
transforms.audio.pyav_reader. Which of them reads a file is decided in transforms.audio.decoders.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np

from transforms.errors import Reason, StageError
from transforms.records import FloatArray

BLOCK_FRAMES = 65_536
BLOCK_SAMPLES = 4 * BLOCK_FRAMES  # of all channels together: a block is at most 1 MiB
MAX_CHANNELS = 64
RATES_HZ = range(1_000, 6_144_001)  # others are broken headers


class DecodeWarning(str, Enum):
    """What was wrong with a file that could be decoded: the values of ``decode_warnings``."""

    TRUNCATED = "truncated"  # less sound than the header states, or than the chunk should hold
    CORRUPT_FRAMES = "corrupt_frames"  # some of the data could not be decoded and was skipped
    LENGTH_MISMATCH = "length_mismatch"  # more sound than the header states
    STREAM_CHANGE = "stream_change"  # rate or channels change; the first ones are kept
    NAN_REPLACED = "nan_replaced"  # NaN, infinite or absurdly loud samples became 0
    CLIPPED = "clipped"  # of all samples at least one in a thousand is at or beyond full scale
    SILENT = "silent"  # every sample is 0
    TOO_LONG = "too_long"  # stopped at max_seconds


@dataclass(frozen=True)
class AudioInfo:
    """What a file turned out to be."""

    container: str
    codec: str  # as ffmpeg names it, without byte order: "mp3", "pcm_s16"
    decoder: str  # "soundfile", "pyav", or "soundfile+pyav" where PyAV went on
    sample_rate_hz: int
    channels: int


class Reader(Protocol):
    """One attempt at one file."""

    info: AudioInfo
    stated_s: float | None  # the header's claim
    warnings: set[DecodeWarning]

    def blocks(self) -> Iterator[FloatArray]: ...
    def stopped_early(self, seconds: float) -> bool: ...
    def close(self) -> None: ...


def block_frames(channels: int) -> int:
    """Frames of a block: the fewer, the more channels there are."""
    return min(BLOCK_FRAMES, BLOCK_SAMPLES // channels)


def reblocked(parts: Iterable[FloatArray], frames: int) -> Iterator[FloatArray]:
    """Pass on the same samples in blocks of at least ``frames``, the last one excepted."""
    held: list[FloatArray] = []
    count = 0
    for part in parts:
        held.append(part)
        count += len(part)
        if count >= frames:
            yield np.concatenate(held)
            held, count = [], 0
    if count:
        yield np.concatenate(held)


def check_shape(info: AudioInfo) -> None:
    """Refuse a rate or a number of channels that no recording has.

    Raises
    ------
    StageError
        With the reason corrupt (rate) or unsupported_codec (channels).
    """
    if info.sample_rate_hz not in RATES_HZ:
        raise StageError(
            Reason.CORRUPT, f"{info.container}: states a rate of {info.sample_rate_hz} Hz"
        )
    if not 1 <= info.channels <= MAX_CHANNELS:
        raise StageError(
            Reason.UNSUPPORTED_CODEC,
            f"{info.container}: {info.channels} channels, at most {MAX_CHANNELS} are read",
        )


def clearly_less(seconds: float, other: float) -> bool:
    """Whether ``seconds`` fall short of ``other`` by more than a codec's padding."""
    return other - seconds > max(0.1, 0.02 * other)


def error_text(error: Exception) -> str:
    """Say what a decoder's error says, without the file's name and the error's number."""
    return str(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error)
