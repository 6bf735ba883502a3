"""What comes out of a live source: blocks as they arrive, what is no block, and how far time is."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass

from transforms.errors import Reason, StageError
from transforms.streaming.blocks import decode_block

BLOCKS = "blocks"
"""Tag of the outputs of blocks; that of what is no block is ``stage_metrics.FAILURES``."""

MAX_POLL_BYTES = 8_000_000  # about what a source gives at once
MAX_POLL_SECONDS = 1.0  # about how long it takes for that


@dataclass(frozen=True)
class Arrived:
    """A block on the wire."""

    stream_id: str
    content: bytes
    event_time_us: int  # of its first sample, microseconds since 1970 in UTC
    last: bool = False  # its stream ends with it, where the source knows


@dataclass(frozen=True)
class SourceFailure:
    """What should have been a block, or several."""

    source: str  # a file, or an address without a password
    reason: Reason
    message: str
    stream_id: str | None = None  # None: not known

    @classmethod
    def of(cls, source: str, error: StageError, stream_id: str | None = None) -> SourceFailure:
        """The failure that an error stands for."""
        return cls(source, error.reason, error.message, stream_id)


def arrival(content: bytes, source: str) -> Arrived | SourceFailure:
    """What a message is: a block, or a failure that is the same for the same bytes.

    Parameters
    ----------
    content : bytes
    source : str
        Where it comes from, for failures.
    """
    try:
        block = decode_block(content)
    except StageError as error:
        digest = hashlib.sha256(content).hexdigest()[:16]
        return SourceFailure.of(f"{source}#sha256:{digest}", error)
    return Arrived(block.stream_id, content, block.event_time_us, block.last)


@dataclass(frozen=True)
class Polled:
    """What has come since the last time."""

    items: tuple[Arrived | SourceFailure, ...] = ()
    watermark_us: int | None = None  # nothing earlier is expected any more; None: not known
    ended: bool = False  # nothing will ever come again


class Source(ABC):
    """Something that blocks come from, asked again and again by one thread."""

    @abstractmethod
    def poll(self) -> Polled:
        """What is there now, at most about ``MAX_POLL_BYTES``; does not wait for more."""

    @abstractmethod
    def close(self) -> None:
        """Release what it holds."""


class SourceSpec(ABC):
    """Says which source; travels with the graph, and is opened where the source is read."""

    @abstractmethod
    def open(self) -> Source:
        """Open it; what cannot be opened now is a failure of its first poll."""
