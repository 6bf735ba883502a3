"""Sound of any lengths, cut into the blocks of one session of a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from transforms.streaming.blocks import ENCODINGS, MAX_BLOCK_BYTES, Block

DEFAULT_BLOCK_SECONDS = 0.25
_HEADER_BYTES = 1_024  # more than any header takes


@dataclass(frozen=True, kw_only=True)
class Sound:
    """Samples as they are sent: interleaved, in one of the encodings of blocks."""

    encoding: str
    sample_rate_hz: int
    channels: int
    payload: bytes

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels."""
        return self.channels * ENCODINGS[self.encoding].itemsize

    @property
    def seconds(self) -> Fraction:
        """How long it is, exactly."""
        return Fraction(len(self.payload) // self.frame_bytes, self.sample_rate_hz)

    def first(self, seconds: Fraction) -> Sound:
        """Its beginning, rounded down to whole frames."""
        frames = int(seconds * self.sample_rate_hz)
        return replace(self, payload=self.payload[: frames * self.frame_bytes])


class Cutter:
    """Cuts sound into blocks: each of ``block_seconds``, but for the last of a format.

    Parameters
    ----------
    stream_id : str
    session : int
    origin_us : int
        Event time of the first sample, microseconds since 1970 in UTC.
    block_seconds : float
        At least one frame is taken, and never more than fits into ``MAX_BLOCK_BYTES``.
    """

    def __init__(
        self,
        stream_id: str,
        session: int,
        origin_us: int,
        block_seconds: float = DEFAULT_BLOCK_SECONDS,
    ) -> None:
        self._stream_id, self._session = stream_id, session
        self._block_seconds = block_seconds
        self._began_us = Fraction(origin_us)  # where the sound of this format begins
        self._format: Sound | None = None
        self._held = bytearray()
        self._frames = 0  # of this format, cut so far
        self._sequence = 0

    @property
    def end_us(self) -> int:
        """Event time behind all that was cut."""
        return round(self._now_us())

    def add(self, sound: Sound) -> Iterator[Block]:
        """Take sound and give the blocks that are full; in a new format, first what is left."""
        if not sound.payload:
            return
        form = replace(sound, payload=b"")
        if form != self._format:
            yield from self.rest()
            self._began_us, self._frames, self._format = self._now_us(), 0, form
        self._held += sound.payload
        size = self._block_frames(form) * form.frame_bytes
        while len(self._held) >= size:
            yield self._cut(form, size)

    def rest(self) -> Iterator[Block]:
        """What is left, as a shorter block, where anything is; the session may go on."""
        if self._format is not None and self._held:
            yield self._cut(self._format, len(self._held))

    def end(self) -> Iterator[Block]:
        """The last block, with what is left: empty, if that is nothing.

        A session without any sound has none: it has no format.
        """
        if self._format is not None:
            yield replace(self._cut(self._format, len(self._held)), last=True)

    def _block_frames(self, form: Sound) -> int:
        asked = round(self._block_seconds * form.sample_rate_hz)
        return max(1, min(asked, (MAX_BLOCK_BYTES - _HEADER_BYTES) // form.frame_bytes))

    def _now_us(self) -> Fraction:
        rate = self._format.sample_rate_hz if self._format is not None else 1
        return self._began_us + Fraction(1_000_000 * self._frames, rate)

    def _cut(self, form: Sound, size: int) -> Block:
        block = Block(
            stream_id=self._stream_id,
            session=self._session,
            sequence=self._sequence,
            event_time_us=round(self._now_us()),
            encoding=form.encoding,
            sample_rate_hz=form.sample_rate_hz,
            channels=form.channels,
            payload=bytes(self._held[:size]),
        )
        del self._held[:size]
        self._sequence += 1
        self._frames += block.frames
        return block
