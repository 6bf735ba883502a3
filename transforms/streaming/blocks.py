"""What streams travel in: blocks of samples, numbered, timed, and each whole in itself.

On the wire, in Kafka as in a file, a block is

    b"CLB1" | header length, uint32 little endian | header, JSON in UTF-8 | payload

with the fields of :class:`Block` in the header, the payload left out. A folder of blocks has one
file for each, ``FOLDER/STREAM_ID/SESSION-SEQUENCE.block``.
"""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from transforms.audio.channels import to_mono
from transforms.errors import Reason, StageError
from transforms.models.front_end import ChannelRule
from transforms.records import FloatArray
from transforms.samples import LARGEST, all_sound

MAGIC = b"CLB1"
MAX_BLOCK_BYTES = 1_000_000  # of one on the wire; Kafka's own default limit is 1,048,588
MAX_PAYLOAD_BYTES = 999_000  # so that any header finds room beside it
MAX_CHANNELS = 32
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 384_000
SUFFIX = ".block"

_MAX_HEADER_BYTES = 2_048
_LENGTH = struct.Struct("<I")
_STREAM_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
ENCODINGS: dict[str, np.dtype[Any]] = {
    "pcm_s16le": np.dtype("<i2"),
    "pcm_f32le": np.dtype("<f4"),
}
_MOST = 2**62  # of any count: sums of two still are int64
_LATEST_US = 2**57  # the year 6537: a timestamp still has room behind it


@dataclass(frozen=True, kw_only=True)
class Block:
    """A stretch of one stream.

    Raises
    ------
    StageError
        ``malformed_block``: a field is out of range, or the payload is too long or holds no whole
        frames; the message names it.
    """

    stream_id: str  # letters, digits, ".", "_" and "-", 128 at most
    session: int = 0  # grows when the recorder starts anew, and its sequence with it
    sequence: int  # from 0 on, by 1
    event_time_us: int  # of the first sample, microseconds since 1970 in UTC
    encoding: str = "pcm_s16le"  # or pcm_f32le; channels interleaved, full scale is 1.0
    sample_rate_hz: int
    channels: int
    last: bool = False  # the stream ends with it
    payload: bytes = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.stream_id, str) or not _STREAM_ID.fullmatch(self.stream_id):
            raise _malformed(f"stream_id must not be {self.stream_id!r:.200}")
        ranges = {"session": (0, _MOST), "sequence": (0, _MOST), "event_time_us": (0, _LATEST_US),
                  "sample_rate_hz": (MIN_RATE_HZ, MAX_RATE_HZ),
                  "channels": (1, MAX_CHANNELS)}  # fmt: skip
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise _malformed(f"{name} must be from {least} to {most}, not {value!r:.200}")
        if not isinstance(self.encoding, str) or self.encoding not in ENCODINGS:
            raise _malformed(
                f"encoding must be one of {', '.join(ENCODINGS)}, not {self.encoding!r:.200}"
            )
        if type(self.last) is not bool:
            raise _malformed(f"last must be true or false, not {self.last!r:.200}")
        if len(self.payload) > MAX_PAYLOAD_BYTES:
            raise _malformed(
                f"{len(self.payload)} bytes of payload are over {MAX_PAYLOAD_BYTES}: cut shorter "
                "blocks"
            )
        if len(self.payload) % self._frame_bytes:
            raise _malformed(
                f"{len(self.payload)} bytes are no whole frames of {self._frame_bytes} bytes"
            )

    @property
    def _frame_bytes(self) -> int:
        return self.channels * ENCODINGS[self.encoding].itemsize

    @property
    def frames(self) -> int:
        """Samples of each channel."""
        return len(self.payload) // self._frame_bytes

    @property
    def end_time_us(self) -> int:
        """Behind the last sample, microseconds since 1970."""
        return self.event_time_us + round(1e6 * self.frames / self.sample_rate_hz)

    @property
    def file_name(self) -> str:
        """Its path in a folder of blocks."""
        return f"{self.stream_id}/{self.session}-{self.sequence:010d}{SUFFIX}"

    def mono(self, rule: ChannelRule) -> FloatArray:
        """Its sound in mono, float32, (frames,), by the front end's rule.

        Raises
        ------
        StageError
            ``invalid_samples``: NaN, infinite or absurdly large samples.
        """
        kind = ENCODINGS[self.encoding]
        samples = np.frombuffer(self.payload, dtype=kind).reshape(-1, self.channels)
        scale = np.float32(1 / 32_768) if kind.kind == "i" else np.float32(1.0)
        sound = samples.astype(np.float32) * scale
        if not all_sound(sound):
            raise StageError(
                Reason.INVALID_SAMPLES,
                f"a block holds NaN, infinite or over {LARGEST:g} as samples",
            )
        return to_mono(sound, rule)


def _malformed(message: str) -> StageError:
    return StageError(Reason.MALFORMED_BLOCK, message)


_FIELDS = [field.name for field in dataclasses.fields(Block) if field.name != "payload"]


def encode_block(block: Block) -> bytes:
    """A block on the wire, at most ``MAX_BLOCK_BYTES``."""
    header = json.dumps({name: getattr(block, name) for name in _FIELDS}).encode()
    return b"".join([MAGIC, _LENGTH.pack(len(header)), header, block.payload])


def decode_block(content: bytes) -> Block:
    """The block that :func:`encode_block` wrote.

    Raises
    ------
    StageError
        ``malformed_block``, with what is wrong.
    """
    if len(content) > MAX_BLOCK_BYTES:
        raise _malformed(f"{len(content)} bytes are over {MAX_BLOCK_BYTES}")
    start = len(MAGIC) + _LENGTH.size
    if not content.startswith(MAGIC) or len(content) < start:
        raise _malformed(f"it does not begin with {MAGIC!r} and a length: {content[:16]!r}")
    (length,) = _LENGTH.unpack_from(content, len(MAGIC))
    if length > min(_MAX_HEADER_BYTES, len(content) - start):
        raise _malformed(f"its header of {length} bytes is cut off, or too long")
    header = _parsed(content[start : start + length])
    if unknown := sorted(header.keys() - set(_FIELDS)):
        raise _malformed(f"unknown fields {', '.join(map(ascii, unknown)):.200}")
    try:
        return Block(**header, payload=content[start + length :])
    except TypeError as error:  # a field is missing
        raise _malformed(str(error).removeprefix("Block.__init__() ")) from error


def _parsed(header: bytes) -> dict[str, Any]:
    try:
        content = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"its header is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise _malformed("its header is no JSON object")
    return content
