"""What the decoding child replies, as far as the worker believes it.

The child has read hostile bytes and may be anyone's by now: every field is checked for its type
and its range, and what is not as it should be raises GarbledError.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from transforms.audio.readers import BLOCK_SAMPLES, MAX_CHANNELS, RATES_HZ, AudioInfo, DecodeWarning
from transforms.errors import Reason, StageError


@dataclass(frozen=True)
class Reply:
    """A header as the child sent it, checked."""

    error: StageError | None = None
    ended: bool = False
    shape: tuple[int, int] | None = None  # of the samples that follow: frames, channels
    info: AudioInfo | None = None  # None: of no file, as the reply to close
    frames: int = 0
    exact_frames: int | None = None
    warnings: tuple[str, ...] = ()
    busy_seconds: float = 0.0  # of the child with this file
    mono_seconds: float = 0.0  # of these, in the channel rule


class GarbledError(Exception):
    """The child said something that is no reply."""


def parsed(text: bytes) -> Reply:
    """Read a reply's header.

    Raises
    ------
    GarbledError
        If anything in it is not of the type and in the range that it should be.
    """
    try:
        return _reply(json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise GarbledError(f"{type(error).__name__}: {error}") from error


def check_fits(reply: Reply, operation: str) -> None:
    """Refuse a reply to another question than the one that was asked.

    Raises
    ------
    GarbledError
        If the reply has no file, a block too many, or neither a block nor the end.
    """
    if reply.error is not None or operation == "close":
        return
    if reply.info is None:
        raise GarbledError("a reply about no file")
    if (operation == "next" and not reply.ended) != (reply.shape is not None):
        raise GarbledError(f"the wrong reply to {operation}")
    if reply.shape is not None and reply.shape[1] not in (1, reply.info.channels):
        raise GarbledError(f"{reply.shape[1]} of {reply.info.channels} channels")


def _reply(header: dict[str, Any]) -> Reply:
    _typed(header, dict)
    if "error" in header:
        return Reply(error=StageError(Reason(header["error"]), _typed(header["message"], str)))
    if "info" not in header:
        return Reply()
    shape = header.get("shape")
    return Reply(
        ended=_typed(header.get("ended", False), bool),
        shape=None if shape is None else _shape(*shape),
        info=_info(**header["info"]),
        frames=_count(header["frames"]),
        exact_frames=None if header.get("exact_frames") is None else _count(header["exact_frames"]),
        warnings=tuple(DecodeWarning(w).value for w in header["warnings"]),
        busy_seconds=_seconds(header["busy_seconds"]),
        mono_seconds=_seconds(header["mono_seconds"]),
    )


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r:.80} is no {kind.__name__}")
    return value


def _count(value: Any) -> int:
    if _typed(value, int) not in range(1 << 53):
        raise ValueError(f"{value} is no number of frames")
    return int(value)


def _seconds(value: Any) -> float:
    if not 0.0 <= _typed(value, float) < math.inf:
        raise ValueError(f"{value} is no time")
    return float(value)


def _shape(frames: Any, channels: Any) -> tuple[int, int]:
    shape = _count(frames), _count(channels)
    if not (0 < shape[0] * shape[1] <= BLOCK_SAMPLES and shape[1] <= MAX_CHANNELS):
        raise ValueError(f"a block of shape {shape}")
    return shape


def _info(**values: Any) -> AudioInfo:
    info = AudioInfo(**values)
    for text in (info.container, info.codec, info.decoder):
        _typed(text, str)
    if (
        _count(info.sample_rate_hz) not in RATES_HZ
        or not 1 <= _count(info.channels) <= MAX_CHANNELS
    ):
        raise ValueError(f"{info.sample_rate_hz} Hz, {info.channels} channels")
    return info
