"""What is kept of a stream between two blocks, and its bytes."""

from __future__ import annotations

import dataclasses
import json
import struct
from dataclasses import dataclass, field
from typing import Any

from transforms.models.sequence import State, state_from_bytes, state_to_bytes
from transforms.streaming.ordering import Cursor

_LENGTH = struct.Struct("<I")


@dataclass
class Stretch:
    """A part of a session without a gap, of one format."""

    sample_rate_hz: int
    channels: int
    start_us: int  # event time of its first sample
    frames: int = 0  # samples of each channel that were heard
    clean_frames: int = 0  # samples without noise that were given out

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.frames / self.sample_rate_hz

    @property
    def end_us(self) -> int:
        """Event time behind its last sample."""
        return self.start_us + round(1e6 * self.seconds)


@dataclass
class StreamState:
    """All that is kept of a stream, but for the blocks that wait."""

    cursor: Cursor = field(default_factory=Cursor)
    origin_us: int | None = None  # event time of the session's first sample; None: none was heard
    end_us: int = 0  # event time behind the newest sample that was heard
    block_end_us: int = 0  # event time behind the newest block whose turn has come
    sequence: int = 0  # of the newest block that was heard
    lost_blocks: int = 0  # since then
    clean_blocks: int = 0  # of the session, given out without noise; a gap counts as one
    stretch: Stretch | None = None  # None: the next block begins one
    asleep: bool = False  # idle: what was open has been told
    timer_us: int = 0  # when the timer for idle streams will fire; 0: it is not set
    offset_us: int = 0  # of Beam's time, by which timers go, over that of the newest block
    arrays: State = field(default_factory=dict)  # of the stretch

    def to_bytes(self) -> bytes:
        """The state as a length, JSON, and safetensors."""
        scalars = dataclasses.asdict(dataclasses.replace(self, arrays={}))
        del scalars["arrays"]
        header = json.dumps(scalars).encode()
        return _LENGTH.pack(len(header)) + header + state_to_bytes(self.arrays)

    @classmethod
    def from_bytes(cls, content: bytes) -> StreamState:
        """The state that :meth:`to_bytes` wrote."""
        (length,) = _LENGTH.unpack_from(content)
        end = _LENGTH.size + length
        fields: dict[str, Any] = json.loads(content[_LENGTH.size : end])
        cursor = Cursor(**fields["cursor"])
        cursor.gaps = [(start, end) for start, end in cursor.gaps]
        fields["cursor"] = cursor
        fields["stretch"] = fields["stretch"] and Stretch(**fields["stretch"])
        return cls(**fields, arrays=state_from_bytes(content[end:]))
