"""A microphone's stream: what the browser sends, and what has been said of it."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from pipeline.serving.answers import Problem, RefusedError
from transforms.records import FloatArray

MAX_SEGMENTS = 200
MAX_PIECE_SECONDS = 30.0  # a browser that waited long sends what came meanwhile at once
RATES_HZ = range(1_000, 384_001)


class Segment(NamedTuple):
    """A stretch of one label, or a gap (no label)."""

    start_s: float
    end_s: float
    label: str | None
    confidence: float


@dataclass
class Stream:
    """One visitor's stream since it was started."""

    stream_id: str = field(default_factory=lambda: f"page-{secrets.token_hex(8)}")
    state: bytes | None = None  # the service's
    answered: int = 0  # pieces of sound
    heard_seconds: float = 0.0
    label: str | None = None  # the running one
    confidence: float = 0.0
    scores: list[float] = field(default_factory=list)
    segments: deque[Segment] = field(default_factory=lambda: deque(maxlen=MAX_SEGMENTS))
    ended: bool = False
    reason: str = ""  # of the last failure
    message: str = ""

    def take(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take over what the service said of one piece."""
        for row in rows:
            if "reason" in row:
                self.reason, self.message = row["reason"], row["message"]
            elif row["kind"] == "second":
                self.label, self.confidence = row["label"], row["confidence"]
                self.scores = list(row["scores"])
            elif row["kind"] in ("segment", "gap"):
                self.segments.append(
                    Segment(row["start_s"], row["end_s"], row["label"], row["confidence"] or 0.0)
                )


class Piece(NamedTuple):
    """A piece of sound as the browser sends it."""

    samples: FloatArray  # (frames, 1), full scale is 1.0
    sample_rate_hz: int
    is_first: bool
    is_last: bool


def piece_of(sent: Mapping[str, Any]) -> Piece:
    """Read what page.js sends.

    Parameters
    ----------
    sent : mapping
        ``samples`` (base64 of float32, little endian), ``rate``, ``first``, ``last``.

    Raises
    ------
    RefusedError
        It is something else.
    """
    try:
        rate, raw = sent["rate"], base64.b64decode(sent["samples"], validate=True)
        samples = np.frombuffer(raw, "<f4").astype(np.float32).reshape(-1, 1)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise _not_sound() from error
    if not isinstance(rate, int) or rate not in RATES_HZ or len(samples) > MAX_PIECE_SECONDS * rate:
        raise _not_sound()
    return Piece(samples, rate, bool(sent.get("first")), bool(sent.get("last")))


def _not_sound() -> RefusedError:
    return RefusedError(Problem.INVALID_REQUEST, "what came is no piece of sound")
