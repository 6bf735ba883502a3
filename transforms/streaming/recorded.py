"""A recorder's audio files to the blocks of one stream, numbered and timed on and on.

The first segment began when it was last written to, less its length. From there event time is the
sound: each segment begins where the one before it ended. For a segment that is missing or cannot be
decoded, as much time and as many sequence numbers go by as the one before it took.

WAV and FLAC lose no sound between segments. MP3 and AAC lose some milliseconds at each cut, by
which event time falls behind the clock: let such segments be long.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from transforms.audio.sandbox import Sandbox
from transforms.errors import Reason, StageError
from transforms.records import FloatArray
from transforms.streaming.blocks import MAX_BLOCK_BYTES, Block

BLOCK_SECONDS = 1.0
_HEADER_BYTES = 1_024  # more than any header takes
_ENCODING, _SAMPLE_BYTES = "pcm_f32le", 4  # the samples that a batch run would label


class Recording:
    """The segments of one stream, to be given in the order of their numbers.

    Parameters
    ----------
    stream_id : str
    sandbox : Sandbox
        Decodes them, with its limits.
    """

    def __init__(self, stream_id: str, sandbox: Sandbox) -> None:
        self._stream_id, self._sandbox = stream_id, sandbox
        self._last: int | None = None  # number of the segment before
        self._sequence = 0  # of the next block
        self._now_us = Fraction(0)  # event time behind the last one
        self._blocks, self._took_us = 1, Fraction(0)  # of the segment before

    def blocks(self, path: Path, number: int) -> Iterator[Block]:
        """The blocks of a segment.

        Yields
        ------
        Block
            32-bit floats at the file's rate and channels; at most ``BLOCK_SECONDS`` long.

        Raises
        ------
        StageError
            ``late_block``, behind a segment of a higher number; what decoding raises, behind the
            blocks that could be decoded.
        """
        if self._last is None:
            self._now_us = _began_us(path, self._sandbox)  # without it, the next one is the first
        elif number <= self._last:
            raise StageError(
                Reason.LATE_BLOCK,
                f"came after segment {self._last}: its place was given up; let the recorder "
                "count on, and finish one segment before the next",
            )
        else:
            self._skip(number - self._last - 1)
        self._last = number
        yield from self._decoded(path)

    def _skip(self, segments: int) -> None:
        self._sequence += segments * self._blocks
        self._now_us += segments * self._took_us

    def _decoded(self, path: Path) -> Iterator[Block]:
        began_us, first, whole = self._now_us, self._sequence, False
        try:
            with self._sandbox.open(path) as audio:
                rate = audio.info.sample_rate_hz
                for samples in itertools.chain.from_iterable(
                    _pieces(part, rate) for part in audio.blocks()
                ):
                    block = self._block(samples, rate)
                    self._sequence += 1
                    self._now_us += Fraction(1_000_000 * block.frames, rate)
                    yield block
            whole = True
        finally:
            if whole:
                self._blocks = max(1, self._sequence - first)
                self._took_us = self._now_us - began_us
            else:  # so much was lost, as far as one can tell
                self._sequence = max(self._sequence + 1, first + self._blocks)
                self._now_us = max(self._now_us, began_us + self._took_us)

    def _block(self, samples: FloatArray, rate: int) -> Block:
        return Block(
            stream_id=self._stream_id,
            sequence=self._sequence,
            event_time_us=max(0, round(self._now_us)),
            encoding=_ENCODING,
            sample_rate_hz=rate,
            channels=samples.shape[1],
            payload=samples.astype("<f4", copy=False).tobytes(),
        )


def _began_us(path: Path, sandbox: Sandbox) -> Fraction:
    """Event time of a segment's first sample: when it was last written to, less its length."""
    with sandbox.open(path) as audio:
        frames = audio.count_frames()
        length = Fraction(1_000_000 * frames, audio.info.sample_rate_hz)
    return max(Fraction(0), Fraction(path.stat().st_mtime_ns, 1_000) - length)


def _pieces(samples: FloatArray, rate: int) -> Iterator[FloatArray]:
    """Cut (frames, channels) so that each piece fits into a block."""
    room = (MAX_BLOCK_BYTES - _HEADER_BYTES) // (samples.shape[1] * _SAMPLE_BYTES)
    frames = max(1, min(room, int(BLOCK_SECONDS * rate)))
    for start in range(0, len(samples), frames):
        yield samples[start : start + frames]
